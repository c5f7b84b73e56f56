/**
 * The word lists and synonyms that METEOR needs. They are data of others under their own licences, several
 * megabytes large, so they are not part of this package: read them from a folder.
 *
 * @module
 */

import { isMissing } from "../files/missing.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { splitWords } from "../files/text.ts";

/** Which words mean the same. */
export interface Synonyms {
  /** Numbers of the synonym sets that a word is in. */
  readonly sets: ReadonlyMap<string, ReadonlySet<number>>;
  /** Base forms of irregular forms: "went" to "go". */
  readonly bases: ReadonlyMap<string, readonly string[]>;
}

/** Everything METEOR needs besides texts. */
export interface MeteorData {
  /** Which words mean the same. */
  readonly synonyms: Synonyms;
  /** Words that weigh less, such as "the". */
  readonly functionWords: ReadonlySet<string>;
  /** Words that keep a full stop behind them: always, or before a number only. */
  readonly prefixes: ReadonlyMap<string, "always" | "number">;
}

/** Where the data lies. */
export interface MeteorFolders {
  /**
   * Folder with `english.synsets` and `english.exceptions` as METEOR has them (`resources/synonym`), or with
   * `index.sense`, `adj.exc`, `adv.exc`, `noun.exc` and `verb.exc` of WordNet 3.0 (`dict`): both give the same.
   */
  readonly synonyms: string;
  /**
   * Folder with METEOR's word lists: `english.words` (or `english.function_words`) and `english.prefixes` (or
   * `english.nonbreaking_prefixes`), or METEOR's `resources` folder, where they are in `function` and
   * `nonbreaking`.
   */
  readonly words: string;
}

/** Numbers of the sets of each word. Words of more than one part are left out: no token is ever one. */
class SetTable {
  readonly sets: Map<string, Set<number>> = new Map();

  add(word: string, set: string): void {
    if (word.includes("_")) return;
    const known = this.sets.get(word);
    if (known) known.add(Number(set));
    else this.sets.set(word, new Set([Number(set)]));
  }
}

function addBase(bases: Map<string, string[]>, form: string, base: string): void {
  const known = bases.get(form);
  if (known) known.push(base);
  else bases.set(form, [base]);
}

/**
 * Reads METEOR's synonym files: pairs of lines, a word and the numbers of its sets; a base form and its
 * irregular forms.
 *
 * @param synsets Content of `english.synsets`.
 * @param exceptions Content of `english.exceptions`.
 * @returns The synonyms.
 */
export function parseMeteorSynonyms(synsets: string, exceptions: string): Synonyms {
  const table = new SetTable();
  for (const [word, numbers] of linePairs(synsets)) {
    for (const number of splitWords(numbers)) table.add(word, number);
  }
  const bases = new Map<string, string[]>();
  for (const [base, forms] of linePairs(exceptions)) {
    for (const form of splitWords(forms)) addBase(bases, form, base);
  }
  return { sets: table.sets, bases };
}

function* linePairs(text: string): Generator<[string, string]> {
  const lines = text.split("\n");
  for (let i = 0; i + 1 < lines.length; i += 2) yield [lines[i]!, lines[i + 1]!];
}

/**
 * Makes METEOR's synonyms from WordNet's own files, as METEOR's authors made them.
 *
 * @param senses Content of `index.sense`.
 * @param exceptions Contents of `adj.exc`, `adv.exc`, `noun.exc` and `verb.exc`.
 * @returns The synonyms.
 */
export function parseWordNet(senses: string, exceptions: readonly string[]): Synonyms {
  const table = new SetTable();
  for (const line of senses.split("\n")) {
    const [key, set] = line.split(" ", 2);
    if (set !== undefined) table.add(key!.slice(0, key!.indexOf("%")), set);
  }
  const bases = new Map<string, string[]>();
  for (const line of exceptions.flatMap((text) => text.split("\n"))) {
    const [form, ...words] = splitWords(line);
    for (const base of words) addBase(bases, form!, base);
  }
  return { sets: table.sets, bases };
}

/**
 * Reads METEOR's list of function words, one a line.
 *
 * @param text Content of `english.words`.
 * @returns The words.
 */
export function parseFunctionWords(text: string): Set<string> {
  return new Set(text.split("\n").filter((line) => line !== ""));
}

/**
 * Reads Moses' list of words that keep their full stop: one a line, comments after "#".
 *
 * @param text Content of `english.prefixes`.
 * @returns The words, and when each keeps it.
 */
export function parsePrefixes(text: string): Map<string, "always" | "number"> {
  const prefixes = new Map<string, "always" | "number">();
  for (const line of text.split("\n")) {
    const [word, mark] = splitWords(line);
    if (word !== undefined && !word.startsWith("#")) {
      prefixes.set(word, mark === "#NUMERIC_ONLY#" ? "number" : "always");
    }
  }
  return prefixes;
}

/**
 * Reads METEOR's data from disk.
 *
 * @param folders Where it lies.
 * @returns The data.
 * @throws {ModelFileError} If a folder lacks a file.
 */
export async function loadMeteorData(folders: MeteorFolders): Promise<MeteorData> {
  const { synonyms, words } = folders;
  const functionWords = await readFirst(words, [
    "english.words",
    "english.function_words",
    "function/english.words",
  ]);
  const prefixes = await readFirst(words, [
    "english.prefixes",
    "english.nonbreaking_prefixes",
    "nonbreaking/english.prefixes",
  ]);
  return {
    synonyms: await loadSynonyms(synonyms),
    functionWords: parseFunctionWords(functionWords),
    prefixes: parsePrefixes(prefixes),
  };
}

async function loadSynonyms(folder: string): Promise<Synonyms> {
  const synsets = await readFirst(folder, ["english.synsets", "index.sense"]);
  // The first line of WordNet's file has a "%" in its key, the one of METEOR's is a word.
  if (/^\S+%/.test(synsets)) {
    const exceptions: string[] = [];
    for (const name of ["adj", "adv", "noun", "verb"]) {
      exceptions.push(await readFirst(folder, [`${name}.exc`]));
    }
    return parseWordNet(synsets, exceptions);
  }
  return parseMeteorSynonyms(synsets, await readFirst(folder, ["english.exceptions"]));
}

async function readFirst(folder: string, names: readonly string[]): Promise<string> {
  for (const name of names) {
    try {
      return await Deno.readTextFile(`${folder}/${name}`);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  }
  throw new ModelFileError(
    `Cannot read METEOR's data as the folder must hold ${names.join(" or ")}: current folder is ${folder}`,
  );
}
