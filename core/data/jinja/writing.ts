/**
 * How Python writes values: `str`, `repr` and `json.dumps`.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { compareText } from "./text.ts";
import {
  type Budget,
  type Callable,
  Dict,
  fail,
  List,
  Loop,
  Markup,
  Namespace,
  Once,
  Range,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
} from "./values.ts";

/** Deepest nesting that is written. */
const MAX_DEPTH = 100;

/** A float as Python's `repr` writes it: the shortest digits that are read as the same number. */
export function writeFloat(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  const [, sign, first, rest = "", exponent] = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(
    value.toExponential(),
  )!;
  const minus = Object.is(value, -0) ? "-" : sign!;
  const power = Number(exponent);
  if (power < -4 || power >= 16) {
    const digits = String(Math.abs(power)).padStart(2, "0");
    return `${minus}${first}${rest === "" ? "" : `.${rest}`}e${power < 0 ? "-" : "+"}${digits}`;
  }
  const digits = `${first}${rest}`;
  if (power < 0) return `${minus}0.${"0".repeat(-power - 1)}${digits}`;
  const whole = digits.slice(0, power + 1).padEnd(power + 1, "0");
  return `${minus}${whole}.${digits.slice(power + 1) || "0"}`;
}

/** What is written as an escape: all that has no ink, but for the space. */
const HIDDEN = /[\p{C}\p{Z}\\]|['"]/gu;
const SHORT: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

/** A string as Python's `repr` writes it. */
export function writeString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const inside = text.replace(HIDDEN, (character) => {
    if (character === " ") return " ";
    if (character === "'" || character === '"') return character === quote ? `\\${character}` : character;
    if (character in SHORT) return SHORT[character]!;
    const code = character.codePointAt(0)!;
    const digits = code.toString(16);
    if (code < 0x100) return `\\x${digits.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${digits.padStart(4, "0")}` : `\\U${digits.padStart(8, "0")}`;
  });
  return `${quote}${inside}${quote}`;
}

/** A value as `str` writes it: as templates do. */
export function textOf(value: Value, budget: Budget): string {
  if (typeof value === "string") return value;
  if (value instanceof Markup) return value.text;
  if (value instanceof Undefined) return "";
  const text = reprOf(value, budget);
  budget.checkSize(text.length);
  return text;
}

/** A value as `repr` writes it. */
export function reprOf(value: Value, budget: Budget, depth = 0): string {
  if (depth > MAX_DEPTH) throw new UnsupportedError(`writing values more than ${MAX_DEPTH} deep`);
  const inner = (item: Value) => reprOf(item, budget, depth + 1);
  const list = (items: readonly Value[]) => items.map(inner).join(", ");
  const text = (() => {
    if (value === null) return "None";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "bigint") return writeInteger(value);
    if (typeof value === "number") return writeFloat(value);
    if (typeof value === "string") return writeString(value);
    if (value instanceof List) return `[${list(value.items)}]`;
    if (value instanceof Tuple) {
      return value.items.length === 1 ? `(${list(value.items)},)` : `(${list(value.items)})`;
    }
    if (value instanceof Dict) {
      return `{${value.entries.map(([k, v]) => `${inner(k)}: ${inner(v)}`).join(", ")}}`;
    }
    if (value instanceof View) return `dict_${value.kind}([${list(value.items)}])`;
    if (value instanceof Range) {
      const step = value.step === 1n ? "" : `, ${value.step}`;
      return `range(${value.start}, ${value.stop}${step})`;
    }
    if (value instanceof Undefined) return "Undefined";
    if (value instanceof Markup) return `Markup(${writeString(value.text)})`;
    throw new UnsupportedError(`writing a ${describe(value)}`);
  })();
  budget.spend(text.length);
  return text;
}

function describe(value: Once | Namespace | Callable | Loop): string {
  if (value instanceof Once) return "generator (use | list)";
  if (value instanceof Namespace) return "namespace";
  return value instanceof Loop ? "loop" : `function (${value.name})`;
}

/** Most digits that Python writes of a whole number. */
const MAX_DIGITS = 4300;

/** A whole number in digits. */
export function writeInteger(value: bigint): string {
  const text = value.toString();
  if (text.replace("-", "").length > MAX_DIGITS) {
    throw new TemplateError(`Exceeds the limit (${MAX_DIGITS} digits) for integer string conversion`);
  }
  return text;
}

/** How JSON is laid out. */
export interface JsonLayout {
  /** Which letters are written as they are; others are escapes. */
  readonly letters: "ascii" | "any";
  /** What a level is moved in by; `null` for one line. */
  readonly indent: string | null;
  readonly comma: string;
  readonly colon: string;
  readonly sorted: boolean;
}

const CONTROL: Readonly<Record<string, string>> = {
  ...{ '"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f" },
};

const CONTROL_CLASS = "\\0-\\x1f";

/** What JSON writes as escapes. */
const ESCAPED = {
  ascii: /["\\]|[^ -~]/g,
  any: new RegExp(`["\\\\${CONTROL_CLASS}]`, "g"),
};

function jsonString(text: string, letters: keyof typeof ESCAPED): string {
  const pattern = ESCAPED[letters];
  const escaped = text.replace(
    pattern,
    (unit) => CONTROL[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `"${escaped}"`;
}

function jsonScalar(value: Value, letters: keyof typeof ESCAPED): string | null {
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (typeof value === "bigint") return writeInteger(value);
  if (typeof value === "number") {
    return Number.isFinite(value)
      ? writeFloat(value)
      : Number.isNaN(value)
      ? "NaN"
      : value < 0
      ? "-Infinity"
      : "Infinity";
  }
  return typeof value === "string" ? jsonString(value, letters) : null;
}

/** A value as `json.dumps` writes it. */
export function writeJson(value: Value, layout: JsonLayout, budget: Budget, depth = 0): string {
  if (depth > MAX_DEPTH) throw new UnsupportedError(`JSON more than ${MAX_DEPTH} deep`);
  const scalar = jsonScalar(value, layout.letters);
  if (scalar !== null) {
    budget.spend(scalar.length);
    return scalar;
  }
  const { indent, comma, colon } = layout;
  const lines = (open: string, parts: readonly string[], close: string): string => {
    if (parts.length === 0) return open + close;
    const line = indent === null ? "" : `\n${indent.repeat(depth + 1)}`;
    const size = parts.reduce((sum, part) => sum + part.length + comma.length + line.length, 0);
    budget.spend(size);
    budget.checkSize(size);
    const end = indent === null ? "" : `\n${indent.repeat(depth)}`;
    return `${open}${line}${parts.join(`${comma}${line}`)}${end}${close}`;
  };
  const inner = (item: Value) => writeJson(item, layout, budget, depth + 1);
  if (value instanceof List || value instanceof Tuple) return lines("[", value.items.map(inner), "]");
  if (value instanceof Markup) return jsonString(value.text, layout.letters);
  if (!(value instanceof Dict)) return fail(`Object of type ${typeOf(value)} is not JSON serializable`);
  const entries = value.entries;
  if (layout.sorted) {
    if (entries.some(([key]) => typeof key !== "string")) {
      throw new UnsupportedError("sorting keys that are no texts");
    }
    entries.sort(([a], [b]) => compareText(String(a), String(b)));
  }
  const fields = entries.map(([key, field]) => {
    if (key instanceof Tuple || key instanceof Undefined) {
      return fail("keys of JSON must be str, int, float, bool or None");
    }
    const name = typeof key === "string" ? key : jsonScalar(key, layout.letters)!;
    return `${jsonString(name, layout.letters)}${colon}${inner(field)}`;
  });
  return lines("{", fields, "}");
}
