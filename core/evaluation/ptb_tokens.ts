/**
 * Tokens for METEOR, ROUGE-L and CIDEr: those of the Penn Treebank as Stanford's PTBTokenizer 3.4.1 makes them,
 * in lower case and without punctuation, which is what the COCO caption scorers see.
 *
 * A scanner with one table of rules. At each place the rule that matches most characters wins, counting what it
 * looks ahead at; of equals the first one. What no rule knows (emoji, control characters) is left out.
 *
 * @module
 */

import type { Corpus } from "./corpus.ts";

/** Tokens that are dropped. Longer runs such as "!!" and brackets are kept, as they are not in this list. */
const PUNCTUATION = new Set(
  "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split(" "),
);

const SPACE = String.raw`[ \t\u00a0\u2000-\u200a\u3000]`;
const LETTER = String.raw`[\p{L}\p{M}\u00ad]`;
const ALNUM = String.raw`[\p{L}\p{M}\p{Nd}\u00ad]`;
const WORD = `${LETTER}${ALNUM}*(?:[.!?]${LETTER}${ALNUM}*)*`;
const APOSTROPHE = String.raw`(?:['\u0092\u2019]|&apos;)`;
const QUOTE_IN_WORD = String.raw`(?:['\u0092\u2019\x60\u0091\u2018\u201b]|&apos;)`;
/** What is split off a word: 's, 'll, 've. */
const CLITIC = `${QUOTE_IN_WORD}(?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL])`;
const NOT_CLITIC = `[nN]${QUOTE_IN_WORD}[tT]`;
const NUMBER = String.raw`(?:\d*(?:[.:,\u00ad\u066b\u066c]\d+)+|\d+)`;
const HYPHEN = String.raw`[-_\u058a\u2010\u2011]`;
/** A word or number that may be a part of a hyphenated one, with a prefix such as O' and d'. */
const PART = `(?:[dDoOlL]${QUOTE_IN_WORD}${ALNUM})?(?:${ALNUM}+|${NUMBER})`;
const URL_END = String.raw`[^\s"<>|.!?(){},\-]`;
const ACRONYM = String.raw`[A-Za-z](?:\.[A-Za-z])*`;

/** Abbreviations that keep their full stop. */
const ABBREVIATIONS =
  "jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri ala ariz calif colo conn ct dak fla " +
  "ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo inc cos? corp pp?t[ye]s? ltd plc rt " +
  "bancorp dept bhd assn univ intl sys tel est ext sq jr sr bros (?:ed|ph)\\.d esq etc al seq vs mr mrs ms drs? " +
  "profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt mt capt st[ae]? ave pres lieut hon " +
  "brig co?mdr pfc spc supts? det invt elec natl m[ft]g blvd rd wm jos cie cf";
/** Those that are other words in small letters. */
const CAPITAL_ABBREVIATIONS = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash";

/** Words that begin a sentence: a single letter with a full stop before one of them is no abbreviation. */
const SENTENCE_STARTS =
  "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mrs?\\. " +
  "Ms\\. Now Once One Other Our She Since So Some Such That The Their Then There These They This We When While " +
  "What Yet You";

/** Any of these words, in small letters or capitals. */
function caseless(words: string): string {
  return `(?i:${words})`;
}

function anyOf(words: string): string {
  return words.replaceAll(" ", "|");
}

const straight = (token: string): string => token.replace(/[\u0092\u2019`\u0091\u2018\u201b]|&apos;/g, "'");
const unbreakable = (token: string): string => token.replace(/ /g, "\u00a0");
const brackets = (token: string): string => token.replace(/\(/g, "-LRB-").replace(/\)/g, "-RRB-");
const always = (token: string) => (): string => token;

const FRACTIONS: Readonly<Record<string, string>> = {
  "½": "1/2",
  "¼": "1/4",
  "¾": "3/4",
  "⅓": "1/3",
  "⅔": "2/3",
};
const CURRENCY: Readonly<Record<string, string>> = {
  "£": "#",
  "€": "$",
  "\u0080": "$",
  "¤": "$",
  "¢": "cents",
};
const BRACKETS: Readonly<Record<string, string>> = {
  "(": "-LRB-",
  ")": "-RRB-",
  "[": "-LSB-",
  "]": "-RSB-",
  "{": "-LCB-",
  "}": "-RCB-",
};
const ENTITIES: Readonly<Record<string, string>> = {
  "&amp;": "&",
  "&lt;": "<",
  "&gt;": ">",
  "&quot;": "''",
  "&apos;": "'",
};

interface Rule {
  /** Sticky; the token is the first group, the rest is looked ahead at. */
  readonly pattern: RegExp;
  /** What the token is written as. @default the token as it is */
  readonly write?: (token: string) => string;
}

function rule(source: string, write?: (token: string) => string): Rule {
  return { pattern: new RegExp(source, "uy"), ...(write ? { write } : {}) };
}

const RULES: readonly Rule[] = [
  rule(String.raw`([cC](?:\+\+|#)|[fF]#)`),
  // Two words written as one.
  rule(`(${caseless("can")})${caseless("not")}`),
  rule(`(${caseless("gon")}|${caseless("wan")})${caseless("na")}`),
  rule(`(${caseless("got")})${caseless("ta")}`),
  rule(`(${caseless("gim")}|${caseless("lem")})${caseless("me")}`),
  rule(`(${APOSTROPHE}[tT])(?:${caseless("is")}|${caseless("was")})`, straight),
  // Tags and entities.
  rule(String.raw`(<\/?[A-Za-z!?][A-Za-z0-9:.-]*(?: [^<>\n]*)?\/?>)`, unbreakable),
  rule(`(&(?:${caseless("amp|lt|gt|quot|apos")});)`, (token) => ENTITIES[token.toLowerCase()]!),
  // Words and their clitics.
  rule(`(${WORD})${CLITIC}`),
  rule(String.raw`([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)${NOT_CLITIC}`),
  rule(`(${CLITIC}|${NOT_CLITIC})(?![A-Za-z])`, straight),
  rule(String.raw`([\u0092\u2019](?:[msdMSD]|[rR][eE]|[vV][eE]|[lL][lL]))`, straight),
  rule(`([yY]${APOSTROPHE})${LETTER}`, straight),
  rule(`(${APOSTROPHE}n${APOSTROPHE}?|[lLdDjJ]${APOSTROPHE}|${caseless("ol")}${APOSTROPHE})`, straight),
  rule(`(${caseless("dunkin|somethin")}${APOSTROPHE})`, straight),
  rule(`(${APOSTROPHE}(?:${caseless("em|till?|cause|twixt")}|[2-9]0s))`, straight),
  // Years in short, before white space only; a curly apostrophe stays as it is.
  rule(String.raw`(['\u0092\u2019]\d\d)[\s\u0085]`),
  rule(`(${caseless("o")}${APOSTROPHE}${caseless("clock")}|${caseless("ma")}${APOSTROPHE}${caseless("am")})`),
  // Names such as D'Amico, and apostrophes between vowels.
  rule(
    `([A-HJ-XZn]${QUOTE_IN_WORD}${LETTER}{2,}|${LETTER}+[aeiouyAEIOUY]${QUOTE_IN_WORD}[aeiouA-Z]${LETTER}*)`,
  ),
  rule(`(${WORD})`),
  // Addresses and names. In the second one ,-_ is a range, as in the reference, which leaves out digits and capitals.
  rule(String.raw`((?:https?|HTTPS?):\/\/[^\s<>"{}|()]+${URL_END})`),
  rule(
    String.raw`((?:${caseless("www")}\.(?:[^\s"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|` +
      String.raw`(?:[^\s"\x60'<>|.!?(){},-_$]+\.)+${caseless("com|net|org|edu")})` +
      String.raw`(?:\/[^\s"<>|()]+${URL_END})?)`,
  ),
  rule(String.raw`([a-zA-Z0-9][^\s"<>|()\u00a0]*@(?:[^\s"<>|().\u00a0]+\.)*[^\s"<>|().\u00a0]+)`),
  rule(`(@[A-Za-z_][A-Za-z_0-9]*|#${LETTER}(?:${ALNUM}|_)*)`),
  // Numbers.
  rule(String.raw`(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})`),
  rule(`([-+]?${NUMBER})`),
  rule(
    String.raw`([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))`,
  ),
  rule(String.raw`((?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?\/|\u2044)\d{1,4})`, unbreakable),
  rule(`([½¼¾⅓⅔])`, (token) => FRACTIONS[token]!),
  rule(
    String.raw`((?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])` +
      String.raw`\d{3,4}[- \u00a0]?\d{3,5}|(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5})`,
    (token) => brackets(unbreakable(token)),
  ),
  // Words with marks inside.
  rule(`(-(?:${caseless("lrb|rrb|lcb|rcb|lsb|rsb")})-)`, (token) => token.toLowerCase()),
  rule(`((?:${PART}|[-+]${NUMBER})(?:${HYPHEN}${PART})*)`, straightInside),
  rule(`([A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+)`, (token) => token.replaceAll("&amp;", "&")),
  rule(String.raw`([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?\/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})`),
  rule(String.raw`(${ALNUM}(?:${ALNUM}|[.,])*(?:-(?:${ALNUM}+|[A-Za-z](?:\.[A-Za-z])+\.))+)`),
  // Money.
  rule(String.raw`([A-Z]*\$|#)`),
  rule(String.raw`([\u00a2-\u00a5\u0080\u20a0\u20ac])`, (token) => CURRENCY[token] ?? token),
  // Abbreviations.
  rule(String.raw`([A-Za-z])\.\s+(?:${anyOf(SENTENCE_STARTS)})[\s?!]`),
  rule(String.raw`(${caseless("ca|figs?|prop|nos?|arts?|bldg|pp|op")}\.)${SPACE}?\d`),
  rule(String.raw`((?:${caseless(anyOf(ABBREVIATIONS))}|${anyOf(CAPITAL_ABBREVIATIONS)}|${ACRONYM})\.)`),
  rule(String.raw`(${WORD}\.)[,;:\u3001]`),
  // Marks. All quotes are dropped later, so it does not matter whether they open or close.
  rule(String.raw`("|''|\x60\x60|[\u0091\u2018]{2}|[\u0092\u2019]{2})`, always("''")),
  rule(String.raw`(['\u0092\u2019\x60\u0091\u2018\u201b\u2039\u203a\u0082])`, always("'")),
  rule(String.raw`([\u201c-\u201f\u0093\u0094\u0084\u00ab\u00bb])`, always("''")),
  rule(String.raw`([<>]?[:;=][-o*']?[()DPdpO\\{@|[\]])(?![A-Za-z0-9])`, brackets),
  rule(String.raw`([()[\]{}])`, (token) => BRACKETS[token]!),
  rule(String.raw`(-{3,4}|[\u0096\u0097\u2013\u2014\u2015])`, always("--")),
  rule(String.raw`(\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026])`, always("...")),
  rule(String.raw`([?!]+|-+|_+|\*+|@+|[.,;:<>=/])`),
  rule(String.raw`([!-~\u00a1-\u00bf\u00d7\u00f7\u2010-\u2bff\u3001-\u303f\uff01-\uff65])`),
];

/** In names such as O’Neil a curly apostrophe stays as it is. */
function straightInside(token: string): string {
  return token.replaceAll("&apos;", "'");
}

/** A plain word before a space: most of every text, and no rule but those of {@linkcode JOINED} says more about it. */
const PLAIN = /[A-Za-z]+(?= )/y;
const JOINED = /^(?:cannot|gonna|wanna|gotta|gimme|lemme)$/i;
const WHITE = /[\s\u0085]+/y;

/**
 * Splits lines into tokens of the Penn Treebank, in lower case, with punctuation.
 *
 * @param text Lines with "\n" between them; the scanner may look at the next line.
 * @returns The tokens of each line.
 */
export function ptbTokens(text: string): string[][] {
  const lines: string[][] = [];
  let tokens: string[] = [];
  for (let place = 0; place < text.length;) {
    if (text[place] === "\n") {
      lines.push(tokens);
      tokens = [];
      place += 1;
      continue;
    }
    PLAIN.lastIndex = place;
    const plain = PLAIN.exec(text)?.[0];
    if (plain !== undefined && !JOINED.test(plain)) {
      tokens.push(plain.toLowerCase());
      place += plain.length + 1;
      continue;
    }
    WHITE.lastIndex = place;
    const white = WHITE.exec(text)?.[0];
    if (white !== undefined) {
      const end = white.indexOf("\n");
      place += end < 0 ? white.length : end;
      continue;
    }
    let longest = 0;
    let token = "";
    let write: Rule["write"];
    for (const candidate of RULES) {
      candidate.pattern.lastIndex = place;
      const match = candidate.pattern.exec(text);
      if (match !== null && match[0].length > longest) {
        longest = match[0].length;
        token = match[1]!;
        write = candidate.write;
      }
    }
    if (longest === 0) {
      place += text.codePointAt(place)! > 0xffff ? 2 : 1;
      continue;
    }
    place += token.length;
    tokens.push((write ? write(token) : token).replaceAll("\u00ad", "").toLowerCase());
  }
  lines.push(tokens);
  return lines;
}

/** A corpus whose texts are Treebank tokens with one space between them. */
export class TokenizedCorpus implements Corpus {
  readonly references: readonly (readonly string[])[];
  readonly predictions: readonly string[];

  constructor(references: readonly (readonly string[])[], predictions: readonly string[]) {
    this.references = references;
    this.predictions = predictions;
  }
}

/**
 * Tokenises a corpus; one that is tokenised stays as it is. All references are one text for the scanner, and all
 * predictions another one.
 */
export function ptbTexts(corpus: Corpus): TokenizedCorpus {
  if (corpus instanceof TokenizedCorpus) return corpus;
  const references = tokenizeTexts(corpus.references.flat());
  let place = 0;
  return new TokenizedCorpus(
    corpus.references.map((texts) => references.slice(place, place += texts.length)),
    tokenizeTexts(corpus.predictions),
  );
}

function tokenizeTexts(texts: readonly string[]): string[] {
  // A line end inside a text would shift all texts behind it.
  return ptbTokens(texts.map((text) => text.replace(/[\n\r]/g, " ")).join("\n"))
    .map((tokens) => tokens.filter((token) => !PUNCTUATION.has(token)).join(" "));
}
