/**
 * Data with one item a line, and what is said about lines that are none.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";

/** A line that holds no item. */
export interface BadLine {
  /** How the file is called. */
  readonly name: string;
  /** Number of the line, from 1 on. */
  readonly line: number;
  /** What is wrong, as the end of a sentence: which rule, and the current value. */
  readonly problem: string;
}

/** A rule that a line breaks. */
export class BrokenRule {
  /** What must be so. */
  readonly rule: string;
  /** True if the rule names the value that breaks it; else the whole line is said to be. */
  readonly hasValue: boolean;

  /**
   * Names a rule.
   *
   * @param rule As in "a line must be JSON".
   * @param options `hasValue` is true if a value is named in it, as in "x must be 1: current value is 2".
   */
  constructor(rule: string, { hasValue = false }: { readonly hasValue?: boolean } = {}) {
    this.rule = rule;
    this.hasValue = hasValue;
  }
}

/**
 * Reads a text line by line. A byte-order mark at its start and empty lines at its end are no lines.
 *
 * @param text Content of the file.
 * @param name How errors call the file.
 * @param parse An item, or the rule that the line breaks.
 * @param onBadLine Called with lines that are no items; they are skipped. Without it the first one is an error.
 * @throws {DataFormatError} If a line is no item, or there is no line.
 */
export function readLines<Item>(
  text: string,
  name: string,
  parse: (line: string) => Item | BrokenRule,
  onBadLine?: (bad: BadLine) => void,
): Item[] {
  const lines = text.replace(/^\uFEFF/, "").trimEnd().split("\n");
  if (lines.length === 1 && lines[0] === "") {
    throw new DataFormatError(`Cannot read ${name} as it must hold at least one line: it is empty`);
  }
  const items: Item[] = [];
  lines.forEach((raw, index) => {
    const line = raw.trim();
    const item = line.isWellFormed() ? parse(line) : new BrokenRule("a line must be UTF-8");
    if (!(item instanceof BrokenRule)) {
      items.push(item);
      return;
    }
    const value = JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}...` : line);
    const problem = item.hasValue ? item.rule : `${item.rule}: current value is ${value}`;
    const bad = { name, line: index + 1, problem };
    if (onBadLine === undefined) {
      throw new DataFormatError(`Cannot read ${name}, line ${bad.line}, as ${bad.problem}`);
    }
    onBadLine(bad);
  });
  return items;
}

/**
 * Refuses a text whose lines cannot be told from each other one by one.
 *
 * @throws {DataFormatError} If it is not UTF-8; the message names the line.
 */
export function requireUtf8(text: string, name: string): void {
  if (text.isWellFormed()) return;
  const line = text.split("\n").findIndex((line) => !line.isWellFormed()) + 1;
  throw new DataFormatError(`Cannot read ${name}, line ${line}, as it must be UTF-8: its bytes are not`);
}

/** What `JSON.parse` also tells of a number, where the runtime is not an old one. */
interface Source {
  readonly source?: string;
}

/**
 * Parses JSON whose numbers a chat template may write. Python knows 1.0 from 1, and all digits of a whole number: a
 * `Number` object stands for a whole number that is written with a point or an exponent, a `bigint` for a long one.
 *
 * @throws {SyntaxError} If it is not JSON.
 */
export function parsePreciseJson(text: string): unknown {
  // Most data has neither.
  if (!/\d(?:\.0|[eE]|\d{15})/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_key, value: unknown, { source = "" }: Source = {}) => {
    if (typeof value !== "number" || !Number.isInteger(value) || source === "") return value;
    if (/[.eE]/.test(source)) return new Number(value);
    return Number.isSafeInteger(value) ? value : BigInt(source);
  });
}

/** A number of `parsePreciseJson` as code takes it. */
export function plainNumber(value: unknown): unknown {
  return value instanceof Number || typeof value === "bigint" ? Number(value) : value;
}

/**
 * The fields of a line of JSON, or the rule that it breaks. Numbers within lists and objects are as
 * `parsePreciseJson` has them, but for the `weight` of a message.
 */
export function parseFields(line: string): Record<string, unknown> | BrokenRule {
  let value: unknown;
  try {
    value = parsePreciseJson(line);
  } catch {
    return new BrokenRule("a line must be JSON");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const fields = value as Record<string, unknown>;
    for (const [name, field] of Object.entries(fields)) {
      fields[name] = plainNumber(field);
      if (!Array.isArray(field)) continue;
      for (const item of field) if (item?.weight !== undefined) item.weight = plainNumber(item.weight);
    }
  }
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? value as Record<string, unknown>
    : new BrokenRule("a line must be an object");
}
