/**
 * Methods of texts, lists and mappings.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { formatBraces } from "./formatting.ts";
import { isEqual } from "./operations.ts";
import { bind } from "./signature.ts";
import { capitalized, lengthOf, SPACE_CLASS, splitBy, splitLines, splitWords, strip } from "./text.ts";
import {
  type Budget,
  Callable,
  Dict,
  fail,
  type Given,
  List,
  Range,
  requireItems,
  smallInteger,
  truthOf,
  Tuple,
  typeOf,
  type Value,
  View,
} from "./values.ts";

type Method<T> = (self: T, given: Given, budget: Budget) => Value;

function textArgument(value: Value | undefined, what: string): string {
  return typeof value === "string" ? value : fail(`${what} must be str, not ${typeOf(value ?? null)}`);
}

/** Where parts of a text begin and end, in characters, as a slice has them. */
function within(text: string, start: Value | undefined, end: Value | undefined) {
  const all = [...text];
  const place = (value: Value | undefined, fallback: number) => {
    if (value === undefined || value === null) return fallback;
    const at = smallInteger(value, "slice indices");
    return Math.min(all.length, Math.max(0, at < 0 ? at + all.length : at));
  };
  const begin = place(start, 0);
  return { begin, part: all.slice(begin, Math.max(begin, place(end, all.length))).join("") };
}

const SEARCH = ["sub", "start?", "end?"];

function find(self: string, given: Given, from: "left" | "right"): number {
  const { sub, start, end } = bind("find", SEARCH, given);
  const wanted = textArgument(sub, "find() argument 1");
  const { begin, part } = within(self, start, end);
  if (start !== undefined && start !== null && smallInteger(start, "start") > lengthOf(self)) return -1;
  const at = from === "right" ? part.lastIndexOf(wanted) : part.indexOf(wanted);
  return at < 0 ? -1 : begin + lengthOf(part.slice(0, at));
}

function found(place: number): Value {
  return place < 0 ? fail("substring not found") : BigInt(place);
}

function count(self: string, given: Given): bigint {
  const { sub, start, end } = bind("count", SEARCH, given);
  const { part } = within(self, start, end);
  const wanted = textArgument(sub, "count() argument 1");
  return BigInt(wanted === "" ? lengthOf(part) + 1 : part.split(wanted).length - 1);
}

function edge(self: string, given: Given, side: "start" | "end"): boolean {
  const { sub, start, end } = bind("startswith", SEARCH, given);
  const { part } = within(self, start, end);
  const wanted = sub instanceof Tuple ? sub.items : [sub];
  return wanted.some((one) => {
    const text = textArgument(one, "startswith first arg");
    return side === "start" ? part.startsWith(text) : part.endsWith(text);
  });
}

/** `strip` and its like. */
function stripped(side: "start" | "end" | "both"): Method<string> {
  return (self, given) => {
    const { chars } = bind("strip", ["chars?"], given);
    return strip(self, side, chars === undefined || chars === null ? null : textArgument(chars, "strip arg"));
  };
}

/** `split` and its like. */
function split(from: "left" | "right"): Method<string> {
  return (self, given) => {
    const { sep = null, maxsplit = -1n } = bind("split", ["sep?", "maxsplit?"], given);
    const most = smallInteger(maxsplit, "maxsplit");
    if (sep === null) return new List(splitWords(self, most, from));
    const separator = textArgument(sep, "sep");
    if (separator === "") return fail("empty separator");
    return new List(splitBy(self, separator, most, from));
  };
}

function partition(fromRight: boolean): Method<string> {
  return (self, given) => {
    const separator = textArgument(bind("partition", ["sep"], given).sep, "sep");
    if (separator === "") return fail("empty separator");
    const at = fromRight ? self.lastIndexOf(separator) : self.indexOf(separator);
    if (at < 0) return new Tuple(fromRight ? ["", "", self] : [self, "", ""]);
    return new Tuple([self.slice(0, at), separator, self.slice(at + separator.length)]);
  };
}

/** Replaces parts of a text, at most so many. */
export function replace(
  text: string,
  [before, after]: readonly [before: string, after: string],
  most: number,
  budget: Budget,
): string {
  const parts = before === "" ? [...text] : text.split(before);
  const places = before === "" ? parts.length + 1 : parts.length - 1;
  const times = most < 0 ? places : Math.min(most, places);
  const size = text.length + times * (after.length - before.length);
  budget.checkSize(size);
  budget.spend(size + parts.length);
  if (before === "") {
    const all = parts.map((part, i) => i < times ? after + part : part).join("");
    return times > parts.length ? all + after : all;
  }
  const joined = parts.slice(0, times + 1).join(after);
  return times < places ? joined + before + parts.slice(times + 1).join(before) : joined;
}

/** Fills a text up on its sides. */
function justified(left: (missing: number, width: number) => number): Method<string> {
  return (self, given, budget) => {
    const { width, fillchar = " " } = bind("ljust", ["width", "fillchar?"], given);
    const fill = textArgument(fillchar, "the fill character");
    if (lengthOf(fill) !== 1) return fail("The fill character must be exactly one character long");
    const size = smallInteger(width!, "width");
    const missing = Math.max(0, size - lengthOf(self));
    budget.checkSize(self.length + missing * fill.length);
    budget.spend(self.length + missing);
    const before = left(missing, size);
    return fill.repeat(before) + self + fill.repeat(missing - before);
  };
}

/** Half of what is missing, the odd one as Python has it. */
export function halfOf(missing: number, width: number): number {
  return Math.floor(missing / 2) + (missing & width & 1);
}

/** Whether all characters are of a kind, and there is one. */
function all(pattern: RegExp): Method<string> {
  return (self, given) => {
    bind("isalpha", [], given);
    return pattern.test(self);
  };
}

/** Letters with case: at least one, and all of them of this case. */
function cased(isUpper: boolean): Method<string> {
  return (self) => isUpper ? isUpperText(self) : isLowerText(self);
}

/** Whether a text has letters with case, and only capitals. */
export function isUpperText(text: string): boolean {
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
}

/** Whether a text has letters with case, and only small ones. */
export function isLowerText(text: string): boolean {
  return /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text);
}

/** A text with its first letter as a capital. */
export function capitalize(text: string): string {
  return capitalized(text) ?? refuseCase();
}

function refuseCase(): never {
  throw new UnsupportedError("case of such letters");
}

function simple(change: (text: string) => string): Method<string> {
  return (self, given, budget) => {
    bind("the method", [], given);
    budget.spend(self.length);
    return change(self);
  };
}

function titled(text: string): string {
  if (/[^\0-\x7f]/.test(text)) refuseCase();
  return text.replace(/[A-Za-z]+/g, (word) => word[0]!.toUpperCase() + word.slice(1).toLowerCase());
}

function swapped(text: string): string {
  if (/[^\0-\x7f]/.test(text)) refuseCase();
  return text.replace(/[A-Za-z]/g, (letter) => letter < "a" ? letter.toLowerCase() : letter.toUpperCase());
}

function affix(isPrefix: boolean): Method<string> {
  return (self, given) => {
    const part = textArgument(bind("removeprefix", ["prefix"], given).prefix, "removeprefix() argument");
    if (part === "" || !(isPrefix ? self.startsWith(part) : self.endsWith(part))) return self;
    return isPrefix ? self.slice(part.length) : self.slice(0, -part.length);
  };
}

const DIGITS = /^[\p{Nd}\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089]+$/u;
const SPACES = new RegExp(`^[${SPACE_CLASS}]+$`, "u");

const TEXT: Readonly<Record<string, Method<string>>> = {
  capitalize: simple(capitalize),
  center: justified(halfOf),
  count,
  endswith: (self, given) => edge(self, given, "end"),
  find: (self, given) => BigInt(find(self, given, "left")),
  format: (self, given, budget) => formatBraces(self, given, budget),
  index: (self, given) => found(find(self, given, "left")),
  isalnum: all(/^[\p{L}\p{N}]+$/u),
  isalpha: all(/^\p{L}+$/u),
  isascii: all(/^[\0-\x7f]*$/),
  isdecimal: all(/^\p{Nd}+$/u),
  isdigit: all(DIGITS),
  islower: cased(false),
  isnumeric: all(/^\p{N}+$/u),
  isspace: all(SPACES),
  isupper: cased(true),
  join: (self, given, budget) => {
    const items = requireItems(bind("join", ["iterable"], given).iterable!, budget);
    return joined(self, items.map((item, i) => textArgument(item, `sequence item ${i}`)), budget);
  },
  ljust: justified(() => 0),
  lower: simple((text) => text.toLowerCase()),
  lstrip: stripped("start"),
  partition: partition(false),
  removeprefix: affix(true),
  removesuffix: affix(false),
  replace: (self, given, budget) => {
    const { old, new: after, count = -1n } = bind("replace", ["old", "new", "count?"], given);
    const most = smallInteger(count, "count");
    const texts = [
      textArgument(old, "replace() argument 1"),
      textArgument(after, "replace() argument 2"),
    ] as const;
    return replace(self, texts, most, budget);
  },
  rfind: (self, given) => BigInt(find(self, given, "right")),
  rindex: (self, given) => found(find(self, given, "right")),
  rjust: justified((missing) => missing),
  rpartition: partition(true),
  rsplit: split("right"),
  rstrip: stripped("end"),
  split: split("left"),
  splitlines: (self, given) => {
    const { keepends = false } = bind("splitlines", ["keepends?"], given);
    return new List(splitLines(self, truthOf(keepends) ? "keep" : "drop"));
  },
  startswith: (self, given) => edge(self, given, "start"),
  strip: stripped("both"),
  swapcase: simple(swapped),
  title: simple(titled),
  upper: simple((text) => text.toUpperCase()),
  zfill: (self, given, budget) => {
    const missing = Math.max(
      0,
      smallInteger(bind("zfill", ["width"], given).width!, "width") - lengthOf(self),
    );
    budget.checkSize(self.length + missing);
    budget.spend(self.length + missing);
    const sign = /^[-+]/.exec(self)?.[0] ?? "";
    return sign + "0".repeat(missing) + self.slice(sign.length);
  },
};

/** Joins texts, within limits. */
export function joined(separator: string, texts: readonly string[], budget: Budget): string {
  const size = texts.reduce((sum, text) => sum + text.length + separator.length, 0);
  budget.checkSize(size);
  budget.spend(size);
  return texts.join(separator);
}

const SEQUENCE: Readonly<Record<string, Method<List | Tuple>>> = {
  copy: (self, given) => plain(given, new List(self.items)),
  count: (self, given, budget) => {
    const { value } = bind("count", ["value"], given);
    return BigInt(self.items.filter((item) => isEqual(item, value!, budget)).length);
  },
  index: (self, given, budget) => {
    const { value } = bind("index", ["value"], given);
    const at = self.items.findIndex((item) => isEqual(item, value!, budget));
    return at < 0 ? fail("value is not in the list") : BigInt(at);
  },
};

const DICT: Readonly<Record<string, Method<Dict>>> = {
  copy: (self) => new Dict(self.entries),
  get: (self, given) => {
    const { key, default: fallback = null } = bind("get", ["key", "default?"], {
      ...given,
      named: new Map(),
    });
    if (given.named.size > 0) return fail("get() takes no keyword arguments");
    const value = self.get(key!);
    return value === undefined ? fallback : value;
  },
  items: (self, given) => plain(given, new View("items", self)),
  keys: (self, given) => plain(given, new View("keys", self)),
  values: (self, given) => plain(given, new View("values", self)),
};

function plain(given: Given, value: Value): Value {
  bind("the method", [], given);
  return value;
}

/** Names that values have in Python, but not here. Those that change a value are refused there too. */
const OTHER_NAMES: Readonly<Record<string, ReadonlySet<string>>> = Object.fromEntries(
  Object.entries({
    str: "casefold encode expandtabs format_map isidentifier isprintable istitle maketrans translate",
    list: "append clear extend insert pop remove reverse sort",
    tuple: "copy",
    dict: "clear fromkeys pop popitem setdefault update",
    int:
      "as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes",
    float: "as_integer_ratio conjugate from_number fromhex hex imag is_integer real",
    bool:
      "as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes",
    range: "count index start step stop",
    dict_keys: "isdisjoint mapping",
    dict_values: "mapping",
    dict_items: "isdisjoint mapping",
    once: "close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw",
  }).map(([type, names]) => [type, new Set(names.split(" "))]),
);

/**
 * An attribute that a value has whatever it holds: a method.
 *
 * @returns `undefined` if it has none of that name.
 */
export function methodOf(value: Value, name: string, budget: Budget): Value | undefined {
  if (name.startsWith("__") || OTHER_NAMES[typeOf(value)]?.has(name)) {
    throw new UnsupportedError(`".${name}" of ${typeOf(value)}`);
  }
  const bound = <T>(methods: Readonly<Record<string, Method<T>>>, self: T): Value | undefined => {
    if (!Object.hasOwn(methods, name)) return undefined;
    return new Callable(name, (given) => methods[name]!(self, given, budget));
  };
  if (typeof value === "string") return bound(TEXT, value);
  if (value instanceof Dict) return bound(DICT, value);
  if (value instanceof Tuple && value.names.includes(name)) return value.items[value.names.indexOf(name)]!;
  if (value instanceof List || value instanceof Tuple) return bound(SEQUENCE, value);
  if (value instanceof Range && OTHER_NAMES.range!.has(name)) {
    throw new UnsupportedError(`".${name}" of a range`);
  }
  return undefined;
}
