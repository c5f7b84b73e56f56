/**
 * Cuts a Jinja template into text and tags, with `trim_blocks` and `lstrip_blocks` as transformers sets them, and
 * tags into tokens. The library's way with white space, escapes and numbers is another.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { SPACE_CLASS } from "./methods.ts";

/** A token of a tag. */
export interface Token {
  readonly kind: "name" | "string" | "integer" | "float" | "operator";
  /** Name, operator, or text of a string after its escapes; digits of a number without underscores. */
  readonly text: string;
}

/** Text, or the tokens of a tag. */
export type Piece =
  | { readonly kind: "data"; readonly text: string }
  | { readonly kind: "{{" | "{%"; readonly tokens: readonly Token[] };

const SPACE = `[${SPACE_CLASS}]`;
/** What opens something in the text: raw comes before other blocks. */
const OPENING = new RegExp(
  `(?<raw>\\{%(?<rawSign>[-+]?)${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\}))|(?<open>\\{[%#{])(?<sign>[-+]?)`,
  "gu",
);
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${SPACE}*|#\\}\\n?`, "gu");
const RAW_END = new RegExp(
  `\\{%(?<sign>[-+]?)${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`,
  "gu",
);
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`, "yu");
const VARIABLE_END = new RegExp(`-\\}\\}${SPACE}*|\\}\\}`, "yu");
const KINDS = ["space", "float", "integer", "name", "string", "operator"] as const;
/** A token of each kind, in order. */
const TOKEN = new RegExp(
  [
    `(${SPACE}+)`,
    `((?<!\\.)(?:\\d+_)*\\d+(?:(?:\\.(?:\\d+_)*\\d+)?[eE][+-]?(?:\\d+_)*\\d+|\\.(?:\\d+_)*\\d+))`,
    `(0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\\da-fA-F])+|[1-9](?:_?\\d)*|0(?:_?0)*)`,
    `([\\p{L}\\p{N}_]+)`,
    `('(?:[^'\\\\]|\\\\[^])*'|"(?:[^"\\\\]|\\\\[^])*")`,
    `(//|\\*\\*|==|!=|>=|<=|[-+/*%~[\\](){}<>=.:|,;])`,
  ].join("|"),
  "yu",
);
export const CLOSING: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/** Nobody needs more within each other. */
const MAX_DEPTH = 100;

const SHORT: Readonly<Record<string, string>> = {
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
    /\\(?:x([\da-f]{2})|u([\da-f]{4})|([0-7]{1,3})|([^]))/giu,
    (all, hex, long, octal, other) => {
      const digits = all[1] === "x" ? hex : all[1] === "u" ? long : undefined;
      if (digits !== undefined || octal !== undefined) {
        const code = digits === undefined ? parseInt(octal, 8) : parseInt(digits, 16);
        if (code >= 0xd800 && code < 0xe000) throw new UnsupportedError("half of a character in a string");
        return String.fromCodePoint(code);
      }
      const letter = String(other ?? all.slice(1));
      if ("xuUN".includes(letter[0]!) || letter > "\x7f") {
        throw new UnsupportedError(
          `"\\${letter}" in a string`,
        );
      }
      return SHORT[letter] ?? `\\${letter}`;
    },
  );
}

/**
 * Cuts a template.
 *
 * @param template The template.
 * @throws {TemplateError} If something has no end, or a character is none of the language.
 */
export function* cut(template: string): Generator<Piece> {
  // One line break at the end of the file is no part of the template.
  const source = template.replace(/\r\n|\r/g, "\n").replace(/\n$/, "");
  let at = 0;
  /** True where the text before ended with a line break, or nothing was before. */
  let startsLine = true;

  /** What a pattern has from here on; goes on after it. */
  const take = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(source);
    if (match !== null) at = pattern.lastIndex;
    return match;
  };
  const data = (text: string, sign: string, open: string): Piece => {
    if (sign === "-") text = text.replace(new RegExp(`${SPACE}+$`, "u"), "");
    else if (sign !== "+" && open !== "{{") {
      const start = text.lastIndexOf("\n") + 1;
      if ((start > 0 || startsLine) && text.slice(start).replace(new RegExp(`^${SPACE}+`, "u"), "") === "") {
        text = text.slice(0, start);
      }
    }
    return { kind: "data", text };
  };
  const tokens = (end: RegExp): Token[] => {
    const found: Token[] = [];
    const brackets: string[] = [];
    while (brackets.length > 0 || take(end) === null) {
      const match = take(TOKEN);
      if (match === null) return fail("unexpected character or end", source.slice(at));
      const [text] = match;
      const kind = KINDS[match.findIndex((part, i) => i > 0 && part !== undefined) - 1]!;
      if (kind === "space") continue;
      if (kind === "string") found.push({ kind, text: unescaped(text.slice(1, -1)) });
      else {found.push({
          kind: kind as Token["kind"],
          text: kind === "name" ? text : text.replaceAll("_", ""),
        });}
      if (kind !== "operator") continue;
      if (text in CLOSING) brackets.push(CLOSING[text]!);
      else if (")]}".includes(text) && brackets.pop() !== text) {
        fail("unexpected bracket", source.slice(at - 1));
      }
      if (brackets.length > MAX_DEPTH) throw new UnsupportedError(`brackets more than ${MAX_DEPTH} deep`);
    }
    startsLine = source[at - 1] === "\n";
    return found;
  };

  while (at < source.length) {
    const begin = at;
    const match = take(OPENING);
    if (match === null) return yield { kind: "data", text: source.slice(begin) };
    const { raw, rawSign, open = "{%", sign } = match.groups!;
    yield data(source.slice(begin, match.index), raw === undefined ? sign! : rawSign!, open);
    startsLine = match[0].endsWith("\n");
    if (raw !== undefined) {
      const start = at;
      const end = take(RAW_END) ?? fail("a tag that opens must have an end", source.slice(at));
      yield data(source.slice(start, end.index), end.groups!.sign!, "{%");
      startsLine = end[0].endsWith("\n");
    } else if (open === "{#") {
      const end = take(COMMENT_END) ?? fail("a comment must have an end", source.slice(at));
      startsLine = end[0].endsWith("\n");
    } else if (open === "{%") yield { kind: open, tokens: tokens(BLOCK_END) };
    else yield { kind: "{{", tokens: tokens(VARIABLE_END) };
  }
}

function fail(message: string, rest: string): never {
  throw new TemplateError(`${message}: current value is ${JSON.stringify(rest.slice(0, 40))}`);
}
