/**
 * Methods of texts and mappings, as Python has them: by characters and not by UTF-16 units.
 *
 * @module
 */

import { grow, spend } from "./budget.ts";
import { UnsupportedError } from "./errors.ts";
import {
  bind,
  type Bound,
  type Call,
  type Dict,
  fail,
  integerOf,
  Items,
  itemsOf,
  joined,
  keyOf,
  stringOf,
  truthOf,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { formatBraces } from "./writing.ts";

/** Python's white space, as the inside of a character class. */
export const SPACE_CLASS =
  "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

const SPACE = new RegExp(`^[${SPACE_CLASS}]$`, "u");
const SPACES = new RegExp(`[${SPACE_CLASS}]+`, "u");
/** Ends of lines. */
const BREAK_CLASS = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const LINES = new RegExp(`\\r\\n|[${BREAK_CLASS}]`, "gu");

/** Number of characters. */
export function lengthOf(text: string): number {
  return [...text].length;
}

/** A text without the characters of a set, or white space, at its start, its end or both. */
export function strip(text: string, side: "start" | "end" | "both", set: Value = null): string {
  const characters = set === null ? null : new Set(stringOf(set, "strip arg"));
  const isOut = (character: string) => characters?.has(character) ?? SPACE.test(character);
  const all = [...text];
  let [start, end] = [0, all.length];
  if (side !== "end") { while (start < end && isOut(all[start]!)) start++; }
  if (side !== "start") { while (end > start && isOut(all[end - 1]!)) end--; }
  return all.slice(start, end).join("");
}

/** Words between white space, at most so many cuts. */
function splitWords(text: string, most: number): string[] {
  const words: string[] = [];
  let rest = strip(text, "start");
  while (rest !== "") {
    const match = words.length === most ? null : SPACES.exec(rest);
    words.push(match === null ? rest : rest.slice(0, match.index));
    rest = match === null ? "" : rest.slice(match.index + match[0].length);
  }
  return words;
}

function split(from: "left" | "right") {
  return (self: string, { sep = null, maxsplit = -1n }: Bound): Value => {
    const most = integerOf(maxsplit, "maxsplit");
    if (sep === null) {
      if (most >= 0 && from === "right") throw new UnsupportedError(".rsplit() between words");
      return new Items(splitWords(self, most));
    }
    const separator = stringOf(sep, "sep");
    if (separator === "") return fail("empty separator");
    const parts = self.split(separator);
    if (most < 0 || parts.length <= most + 1) return new Items(parts);
    return new Items(
      from === "right"
        ? [parts.slice(0, parts.length - most).join(separator), ...parts.slice(parts.length - most)]
        : [...parts.slice(0, most), parts.slice(most).join(separator)],
    );
  };
}

/** Lines of a text, without their breaks. */
export function splitLines(text: string): string[] {
  const lines = text.split(LINES);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** Replaces parts of a text, at most so many. */
export function replace(text: string, before: string, after: string, most: number): string {
  const parts = before === "" ? ["", ...text, ""] : text.split(before);
  const times = Math.min(most < 0 ? Infinity : most, parts.length - 1);
  grow(text.length + parts.length + times * Math.max(0, after.length - before.length));
  const rest = parts.slice(times).join(before);
  return times === 0 ? rest : parts.slice(0, times).join(after) + after + rest;
}

/** The first character as a capital letter; others small. */
export function capitalize(text: string): string {
  const [first = ""] = text;
  const upper = first.toUpperCase();
  // These have title letters of their own.
  if (lengthOf(upper) > 1 || /[\u01c4-\u01cc\u01f1-\u01f3\u10d0-\u10ff\u1f80-\u1fff]/u.test(first)) {
    throw new UnsupportedError("case of such letters");
  }
  return upper + text.slice(first.length).toLowerCase();
}

/** Whether a text has letters with case, and only capitals. */
export function isUpper(text: string): boolean {
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
}

/** Whether a text has letters with case, and only small ones. */
export function isLower(text: string): boolean {
  return /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text);
}

/** Letters of texts whose case is that of ASCII. */
function ofAscii(change: (text: string) => string) {
  return (self: string): Value => {
    if (/[^\0-\x7f]/.test(self)) throw new UnsupportedError("case of such letters");
    return change(self);
  };
}

function find(from: "left" | "right", kind: "find" | "index") {
  return (self: string, { sub }: Bound): Value => {
    const wanted = stringOf(sub, "find() argument 1");
    const at = from === "right" ? self.lastIndexOf(wanted) : self.indexOf(wanted);
    if (at < 0) return kind === "index" ? fail("substring not found") : -1n;
    return BigInt(lengthOf(self.slice(0, at)));
  };
}

function edge(side: "startsWith" | "endsWith") {
  return (self: string, { prefix }: Bound): Value => {
    const wanted = prefix instanceof Items && prefix.kind === "tuple" ? prefix.all : [prefix];
    return wanted.some((one) => self[side](stringOf(one, `${side.toLowerCase()} first arg`)));
  };
}

function affix(side: "startsWith" | "endsWith") {
  return (self: string, { affix }: Bound): Value => {
    const part = stringOf(affix, "argument");
    if (part === "" || !self[side](part)) return self;
    return side === "startsWith" ? self.slice(part.length) : self.slice(0, -part.length);
  };
}

function partition(from: "left" | "right") {
  return (self: string, { sep }: Bound): Value => {
    const separator = stringOf(sep, "sep");
    if (separator === "") return fail("empty separator");
    const at = from === "right" ? self.lastIndexOf(separator) : self.indexOf(separator);
    if (at < 0) return new Items(from === "right" ? ["", "", self] : [self, "", ""], "tuple");
    return new Items([self.slice(0, at), separator, self.slice(at + separator.length)], "tuple");
  };
}

const all = (pattern: RegExp) => (self: string): Value => pattern.test(self);

function zfill(self: string, { width }: Bound): string {
  const missing = Math.max(0, integerOf(width!, "width") - lengthOf(self));
  grow(self.length + missing);
  const sign = /^[-+]/.exec(self)?.[0] ?? "";
  return sign + "0".repeat(missing) + self.slice(sign.length);
}

type Method<T> = readonly [parameters: string, run: (self: T, bound: Bound) => Value];

const TEXT: Readonly<Record<string, Method<string>>> = {
  capitalize: ["", capitalize],
  count: ["sub start? end?", (self, { sub }) => {
    const wanted = stringOf(sub, "count() argument 1");
    return BigInt(wanted === "" ? lengthOf(self) + 1 : self.split(wanted).length - 1);
  }],
  endswith: ["prefix start? end?", edge("endsWith")],
  find: ["sub start? end?", find("left", "find")],
  index: ["sub start? end?", find("left", "index")],
  isalnum: ["", all(/^[\p{L}\p{N}]+$/u)],
  isalpha: ["", all(/^\p{L}+$/u)],
  isdecimal: ["", all(/^\p{Nd}+$/u)],
  isdigit: ["", all(/^[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089]+$/u)],
  islower: ["", isLower],
  isnumeric: ["", all(/^\p{N}+$/u)],
  isspace: ["", all(new RegExp(`^[${SPACE_CLASS}]+$`, "u"))],
  isupper: ["", isUpper],
  join: [
    "iterable",
    (self, { iterable }) =>
      joined(self, itemsOf(iterable!).map((item, i) => stringOf(item, `sequence item ${i}`))),
  ],
  lower: ["", (self) => self.toLowerCase()],
  lstrip: ["chars?", (self, { chars }) => strip(self, "start", chars)],
  partition: ["sep", partition("left")],
  removeprefix: ["affix", affix("startsWith")],
  removesuffix: ["affix", affix("endsWith")],
  replace: [
    "old new count?",
    (self, { old, new: after, count = -1n }) =>
      replace(self, stringOf(old, "argument 1"), stringOf(after, "argument 2"), integerOf(count, "count")),
  ],
  rfind: ["sub start? end?", find("right", "find")],
  rindex: ["sub start? end?", find("right", "index")],
  rpartition: ["sep", partition("right")],
  rsplit: ["sep? maxsplit?", split("right")],
  rstrip: ["chars?", (self, { chars }) => strip(self, "end", chars)],
  split: ["sep? maxsplit?", split("left")],
  splitlines: ["keepends?", (self, { keepends = false }) => {
    if (truthOf(keepends)) throw new UnsupportedError(".splitlines() with their ends");
    return new Items(splitLines(self));
  }],
  startswith: ["prefix start? end?", edge("startsWith")],
  strip: ["chars?", (self, { chars }) => strip(self, "both", chars)],
  swapcase: [
    "",
    ofAscii((text) =>
      text.replace(/[A-Za-z]/g, (letter) => letter < "a" ? letter.toLowerCase() : letter.toUpperCase())
    ),
  ],
  title: [
    "",
    ofAscii((text) =>
      text.replace(/[A-Za-z]+/g, (word) => word[0]!.toUpperCase() + word.slice(1).toLowerCase())
    ),
  ],
  upper: ["", (self) => self.toUpperCase()],
  zfill: ["width", zfill],
};

const tuples = (self: Dict) => [...self].map((pair) => new Items(pair, "tuple"));

const DICT: Readonly<Record<string, Method<Dict>>> = {
  copy: ["", (self) => self],
  get: ["key default?", (self, { key, default: fallback = null }) => {
    const isNone = key === null || key instanceof Undefined;
    const value = isNone ? undefined : self.get(keyOf(key!));
    return value === undefined ? fallback : value;
  }],
  items: ["", (self) => new Items(tuples(self), "dict_items")],
  keys: ["", (self) => new Items([...self.keys()], "dict_keys")],
  values: ["", (self) => new Items([...self.values()], "dict_values")],
};

const NUMBER =
  "as_integer_ratio bit_count bit_length conjugate denominator from_bytes from_number fromhex hex imag " +
  "is_integer numerator real to_bytes";

/** Names that values have in Python, but not here. Those that change a value are refused there too. */
const OTHERS: Readonly<Record<string, string>> = {
  str:
    "casefold center encode expandtabs format_map isascii isidentifier isprintable istitle ljust maketrans rjust " +
    "translate",
  list: "append clear copy count extend index insert pop remove reverse sort",
  tuple: "count grouper index list",
  dict: "clear fromkeys pop popitem setdefault update",
  generator: "close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw",
  ...Object.fromEntries(["int", "bool", "float"].map((type) => [type, NUMBER])),
};

/**
 * An attribute that a value has whatever it holds: a method.
 *
 * @returns `undefined` if it has none of that name.
 */
export function methodOf(value: Value, name: string): Value | undefined {
  const type = typeOf(value);
  const isKnown = value === null || Object.hasOwn(OTHERS, type);
  if (!isKnown || name.startsWith("__") || OTHERS[type]?.split(" ").includes(name)) {
    throw new UnsupportedError(`".${name}" of ${type}`);
  }
  const call = <T>(self: T, [parameters, run]: Method<T>): Call => (given) => {
    if (typeof self === "string") spend(self.length);
    const bound = bind(name, parameters, given);
    if (bound.start !== undefined) throw new UnsupportedError(`.${name}() in a part of a text`);
    return run(self, bound);
  };
  if (typeof value === "string" && name === "format") return (given) => formatBraces(value, given);
  if (typeof value === "string" && Object.hasOwn(TEXT, name)) return call(value, TEXT[name]!);
  return value instanceof Map && Object.hasOwn(DICT, name) ? call(value as Dict, DICT[name]!) : undefined;
}
