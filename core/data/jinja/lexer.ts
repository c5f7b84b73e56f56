/**
 * Cuts a Jinja template into tokens, with `trim_blocks` and `lstrip_blocks` as transformers sets them.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { SPACE_CLASS } from "./text.ts";

/** Kinds of tokens. */
export type TokenKind =
  | "data"
  | "{{"
  | "}}"
  | "{%"
  | "%}"
  | "name"
  | "string"
  | "integer"
  | "float"
  | "operator"
  | "end";

/** A token. */
export interface Token {
  readonly kind: TokenKind;
  /** Name, operator, or text of a string after its escapes; digits of a number without underscores. */
  readonly text: string;
  readonly line: number;
}

const SPACE = `[${SPACE_CLASS}]`;
/** What opens something in the text: raw comes before other blocks. */
const OPENING = new RegExp(
  `(?<raw>\\{%(?<rawSign>[-+]?)${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\}))|(?<open>\\{%|\\{#|\\{\\{)(?<sign>[-+]?)`,
  "gu",
);
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${SPACE}*|#\\}\\n?`, "gu");
const RAW_END = new RegExp(
  `\\{%(?<sign>[-+]?)${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`,
  "gu",
);
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`, "yu");
const VARIABLE_END = new RegExp(`-\\}\\}${SPACE}*|\\}\\}`, "yu");
const WHITE = new RegExp(`${SPACE}+`, "yu");
const FLOAT = /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iyu;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iyu;
const NAME = /[\p{L}\p{N}_]+/yu;
const STRING = /'([^'\\]*(?:\\.[^'\\]*)*)'|"([^"\\]*(?:\\.[^"\\]*)*)"/syu;
const OPERATOR = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/yu;
const CLOSING: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** Nobody needs more within each other. */
const MAX_DEPTH = 100;

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  #lineOf = 0;
  /** True where the text before ended with a line break, or nothing was before. */
  #startsLine = true;

  constructor(source: string) {
    this.#source = source;
  }

  run(): Token[] {
    while (this.#at < this.#source.length) this.#text();
    this.#push("end", "");
    return this.#tokens;
  }

  #push(kind: TokenKind, text: string): void {
    // Lines are counted on the way.
    for (; this.#lineOf < this.#at; this.#lineOf++) if (this.#source[this.#lineOf] === "\n") this.#line++;
    this.#tokens.push({ kind, text, line: this.#line });
  }

  #fail(message: string): never {
    throw new TemplateError(`line ${this.#line}: ${message}`);
  }

  /** What a sticky pattern has here; goes on after it. */
  #take(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#source);
    if (match !== null) this.#at = pattern.lastIndex;
    return match;
  }

  /** The next place of a pattern; goes on after it. */
  #seek(pattern: RegExp, what: string): RegExpExecArray {
    return this.#take(pattern) ?? this.#fail(`Missing end of ${what}`);
  }

  #data(text: string, sign: string, open: string): void {
    if (sign === "-") text = text.replace(new RegExp(`${SPACE}+$`, "u"), "");
    else if (sign !== "+" && open !== "{{") {
      const start = text.lastIndexOf("\n") + 1;
      if ((start > 0 || this.#startsLine) && new RegExp(`^${SPACE}*$`, "u").test(text.slice(start))) {
        text = text.slice(0, start);
      }
    }
    if (text !== "") this.#push("data", text);
  }

  #text(): void {
    const begin = this.#at;
    OPENING.lastIndex = begin;
    const match = OPENING.exec(this.#source);
    if (match === null) {
      this.#at = this.#source.length;
      return this.#push("data", this.#source.slice(begin));
    }
    this.#at = OPENING.lastIndex;
    const { raw, rawSign, open, sign } = match.groups!;
    this.#data(this.#source.slice(begin, match.index), raw === undefined ? sign! : rawSign!, open ?? "{%");
    this.#startsLine = match[0].endsWith("\n");
    if (raw !== undefined) this.#raw();
    else if (open === "{#") this.#startsLine = this.#seek(COMMENT_END, "comment tag")[0].endsWith("\n");
    else if (open === "{%") this.#inside("{%", "%}", BLOCK_END);
    else this.#inside("{{", "}}", VARIABLE_END);
  }

  #raw(): void {
    const begin = this.#at;
    const match = this.#seek(RAW_END, "raw directive");
    this.#data(this.#source.slice(begin, match.index), match.groups!.sign!, "{%");
    this.#startsLine = match[0].endsWith("\n");
  }

  #inside(open: TokenKind, close: TokenKind, end: RegExp): void {
    this.#push(open, "");
    const brackets: string[] = [];
    while (true) {
      if (brackets.length === 0) {
        const match = this.#take(end);
        if (match !== null) {
          this.#startsLine = match[0].endsWith("\n");
          return this.#push(close, "");
        }
      }
      if (this.#at >= this.#source.length) this.#fail(`unexpected end of template, "${close}" is missing`);
      if (this.#take(WHITE) !== null) continue;
      const token = this.#take(FLOAT) ?? null;
      if (token !== null) this.#push("float", token[0].replaceAll("_", ""));
      else this.#other(brackets);
    }
  }

  #other(brackets: string[]): void {
    const integer = this.#take(INTEGER);
    if (integer !== null) return this.#push("integer", integer[0].replaceAll("_", ""));
    const name = this.#take(NAME);
    if (name !== null) return this.#push("name", name[0]);
    const string = this.#take(STRING);
    if (string !== null) return this.#push("string", unescaped(string[1] ?? string[2] ?? ""));
    const operator = this.#take(OPERATOR);
    if (operator === null) this.#fail(`unexpected char ${JSON.stringify(this.#source[this.#at])}`);
    const [text] = operator;
    if (text in CLOSING) brackets.push(CLOSING[text]!);
    else if (")]}".includes(text) && brackets.pop() !== text) this.#fail(`unexpected "${text}"`);
    if (brackets.length > MAX_DEPTH) throw new UnsupportedError(`brackets more than ${MAX_DEPTH} deep`);
    this.#push("operator", text);
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  ...{
    "\n": "",
    "\\": "\\",
    "'": "'",
    '"': '"',
    a: "\x07",
    b: "\b",
    f: "\f",
    n: "\n",
    r: "\r",
    t: "\t",
    v: "\v",
  },
};

/** A string as Python's `unicode_escape` reads it. */
function unescaped(text: string): string {
  return text.replace(
    /\\(?:x([\da-f]{2})|u([\da-f]{4})|U([\da-f]{8})|([0-7]{1,3})|([^]))/giu,
    (all, hex, short, long, octal, other) => {
      if (all[1] === "X") return all;
      const digits = hex ?? (all[1] === "u" ? short : undefined) ?? (all[1] === "U" ? long : undefined);
      if (digits !== undefined || octal !== undefined) {
        const code = digits === undefined ? parseInt(octal, 8) : parseInt(digits, 16);
        if (code > 0x10ffff) throw new TemplateError(`no character has the number ${code}`);
        if (code >= 0xd800 && code < 0xe000) throw new UnsupportedError("half of a character in a string");
        return String.fromCodePoint(code);
      }
      const letter = String(other ?? all.slice(1));
      if ("xuUN".includes(letter[0]!)) {
        if (letter[0] === "N") throw new UnsupportedError("a character by its name in a string");
        throw new TemplateError("an escape in a string must have all its digits");
      }
      if (letter > "\x7f") throw new UnsupportedError("an escape before a character that is not ASCII");
      return ESCAPES[letter] ?? `\\${letter}`;
    },
  );
}

/**
 * Cuts a template into tokens.
 *
 * @param source The template.
 * @throws {TemplateError} If something has no end, or a character is none of the language.
 */
export function tokenize(source: string): Token[] {
  // One line break at the end of the file is no part of the template.
  return new Lexer(source.replace(/\r\n|\r/g, "\n").replace(/\n$/, "")).run();
}
