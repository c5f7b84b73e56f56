/**
 * How Python writes values: `str`, `repr`, `json.dumps`, `%` and `str.format`.
 *
 * @module
 */

import { grow, spend } from "./budget.ts";
import { UnsupportedError } from "./errors.ts";
import {
  type Dict,
  fail,
  type Given,
  Items,
  joined,
  Markup,
  numberOf,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";

/** Deepest nesting that is written. */
const MAX_DEPTH = 100;

/** A float as Python's `repr` writes it: the shortest digits that are read as the same number. */
export function writeFloat(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
  const [digits = "", power = ""] = value.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    return `${digits}e${power[0]}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const sign = Object.is(value, -0) ? "-" : "";
  if (exponent >= 0) return sign + (Number.isInteger(value) ? `${value}.0` : `${value}`);
  const places = digits.replace(/-?\d\.?/, "").length - exponent;
  return value.toFixed(places);
}

/** What is written as an escape: all that has no ink, but for the space. */
const HIDDEN = /[\p{C}\p{Z}\\]|['"]/gu;
const SHORT: Readonly<Record<string, string>> = {
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\\": "\\\\",
  " ": " ",
};

/** A string as Python's `repr` writes it. */
function writeString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = text.replace(HIDDEN, (character) => {
    if (character === "'" || character === '"') return character === quote ? `\\${character}` : character;
    if (character in SHORT) return SHORT[character]!;
    const digits = character.codePointAt(0)!.toString(16);
    if (digits.length <= 2) return `\\x${digits.padStart(2, "0")}`;
    return digits.length <= 4 ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
  });
  return `${quote}${inside}${quote}`;
}

/** A value as `str` writes it: as templates do. */
export function textOf(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Markup) return value.text;
  return value instanceof Undefined ? "" : reprOf(value);
}

/** A value as `repr` writes it. */
export function reprOf(value: Value, depth = 0): string {
  if (depth > MAX_DEPTH) throw new UnsupportedError(`writing values more than ${MAX_DEPTH} deep`);
  const inner = (item: Value) => reprOf(item, depth + 1);
  const text = (() => {
    if (value === null) return "None";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "bigint") return String(value);
    if (typeof value === "number") return writeFloat(value);
    if (typeof value === "string") return writeString(value);
    if (value instanceof Undefined) return "Undefined";
    if (value instanceof Markup) return `Markup(${writeString(value.text)})`;
    if (value instanceof Map) {
      return `{${joined(", ", [...value].map(([key, field]) => `${inner(key)}: ${inner(field)}`))}}`;
    }
    if (!(value instanceof Items) || value.kind === "generator") {
      throw new UnsupportedError(`writing a ${typeOf(value)}`);
    }
    if (value.kind === "range") return value.written;
    const items = joined(", ", value.all.map(inner));
    if (value.kind === "tuple") return value.all.length === 1 ? `(${items},)` : `(${items})`;
    return value.kind === "list" ? `[${items}]` : `${value.kind}([${items}])`;
  })();
  grow(text.length);
  return text;
}

/** How JSON is laid out. */
export interface JsonLayout {
  readonly isAscii: boolean;
  /** What a level is moved in by; `null` for one line. */
  readonly indent: string | null;
  readonly comma: string;
  readonly colon: string;
  readonly isSorted: boolean;
}

function jsonString(text: string, { isAscii }: JsonLayout): string {
  const escape = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  // JSON.stringify also escapes halves of characters, which Python does only in ASCII.
  if (!text.isWellFormed()) throw new UnsupportedError("JSON of half a character");
  const quoted = JSON.stringify(text);
  return isAscii ? quoted.replace(/[\x7f-\uffff]/g, escape) : quoted;
}

/** A value as `json.dumps` writes it. */
export function writeJson(value: Value, layout: JsonLayout, depth = 0): string {
  if (depth > MAX_DEPTH) throw new UnsupportedError(`JSON more than ${MAX_DEPTH} deep`);
  spend(1);
  if (value instanceof Markup) value = value.text;
  if (value === null) return "null";
  if (typeof value === "boolean" || typeof value === "bigint") return String(value);
  if (typeof value === "number") {
    return writeFloat(value).replace("nan", "NaN").replace("inf", "Infinity");
  }
  if (typeof value === "string") {
    spend(value.length);
    return jsonString(value, layout);
  }
  const { indent, comma, colon } = layout;
  const lines = (open: string, parts: readonly string[], close: string): string => {
    if (parts.length === 0) return open + close;
    const [line, end] = indent === null ? ["", ""] : [depth + 1, depth].map((n) => `\n${indent.repeat(n)}`);
    return open + line + joined(`${comma}${line}`, parts) + end + close;
  };
  const inner = (item: Value) => writeJson(item, layout, depth + 1);
  if (value instanceof Items && value.isPlain) return lines("[", value.all.map(inner), "]");
  if (!(value instanceof Map)) return fail(`Object of type ${typeOf(value)} is not JSON serializable`);
  const entries = [...value as Dict].map(([key, field]) => [String(key), field] as const);
  if (layout.isSorted && [...value.keys()].some((key) => typeof key !== "string")) {
    throw new UnsupportedError("sorting keys that are no texts");
  }
  if (layout.isSorted) entries.sort(([a], [b]) => compareText(a, b));
  return lines("{", entries.map(([key, field]) => jsonString(key, layout) + colon + inner(field)), "}");
}

/** Compares by characters, as Python does. */
export function compareText(a: string, b: string): number {
  const [left, right] = [[...a], [...b]];
  const at = left.findIndex((character, i) => character !== right[i]);
  if (at < 0 || at >= right.length) return left.length - right.length;
  return left[at]!.codePointAt(0)! - right[at]!.codePointAt(0)!;
}

const ESCAPED: Readonly<Record<string, string>> = {
  ...{ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" },
};

/** A text as HTML has it. */
export function escaped(text: string): Markup {
  const result = text.replace(/[&<>"']/g, (sign) => ESCAPED[sign]!);
  grow(result.length);
  return new Markup(result);
}

/** A float with so many digits after the point, halves to the even digit as Python has it. */
export function fixed(value: number, digits: number): string {
  if (!Number.isFinite(value)) return writeFloat(value);
  if (digits > 30 || Math.abs(value) >= 1e21) throw new UnsupportedError("so many digits");
  // The digits are exact, and a half has one more of them.
  const [exact, up] = [value.toFixed(digits + 60), value.toFixed(digits)];
  const isHalf = /^50*$/.test(exact.slice(exact.length - 60)) && digits + 60 <= 100;
  const sign = Object.is(value, -0) || value < 0 && !up.startsWith("-") ? "-" : "";
  if (!isHalf || Number(up.at(-1)) % 2 === 0) return sign + up;
  const down = exact.slice(0, exact.length - 60);
  return digits === 0 ? down.slice(0, -1) : down;
}

/** A text with `%` before places for values; widths are not done. */
export function formatPercent(text: string, values: Value): string {
  const items = values instanceof Items && values.kind === "tuple" ? values.all : [values];
  let at = 0;
  let isNamed = false;
  const result = text.replace(/%(?:\(([^()]*)\))?(?:\.(\d+))?([^]?)/gu, (all, name, digits, kind) => {
    if (all === "%%") return "%";
    isNamed ||= name !== undefined;
    const value = name === undefined ? items[at++] : values instanceof Map ? values.get(name) : undefined;
    if (value === undefined) return fail("not enough arguments for format string");
    if (value instanceof Markup) throw new UnsupportedError("escaped text in %");
    if (digits === undefined && (kind === "s" || kind === "r")) {
      return kind === "s" ? textOf(value) : reprOf(value);
    }
    const number = numberOf(value);
    if (!"dif".includes(kind) || kind === "" || kind !== "f" && digits !== undefined) {
      throw new UnsupportedError(`"${all}" in a text`);
    }
    if (number === null) return fail(`%${kind} format: a real number is required, not ${typeOf(value)}`);
    if (kind === "f") return fixed(Number(number), Number(digits ?? 6));
    if (typeof number === "number" && !Number.isFinite(number)) {
      return fail("cannot convert float to integer");
    }
    return String(typeof number === "number" ? BigInt(Math.trunc(number)) : number);
  });
  // Whatever has items by key may have more of them.
  const isMapping = values instanceof Map || values instanceof Undefined ||
    values instanceof Items && (values.kind === "list" || values.kind === "range");
  if (at < items.length && !(isNamed || isMapping)) return fail("not all arguments converted");
  grow(result.length);
  return result;
}

/** A text with `{}` for places, as `str.format` fills them; fields of values and layouts are not done. */
export function formatBraces(text: string, { positional, named }: Given): string {
  let automatic = 0;
  const result = text.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/gu, (all, field) => {
    if (all === "{{" || all === "}}") return all[0]!;
    if (field === undefined) return fail(`Single '${all}' encountered in format string`);
    if (!/^(?:[A-Za-z_]\w*|\d*)$/.test(field) || field !== "" && automatic > 0 && /^\d/.test(field)) {
      throw new UnsupportedError(`"{${field}}" in format`);
    }
    const value = /^\d*$/.test(field)
      ? positional[field === "" ? automatic++ : Number(field)]
      : named.get(field);
    return value === undefined ? fail(`no argument for {${field}}`) : textOf(value);
  });
  if (automatic > 0 && /\{\d/.test(text)) throw new UnsupportedError("numbers after {} in format");
  grow(result.length);
  return result;
}
