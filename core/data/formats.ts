/**
 * The data sets of the paper, as their own files have them, to prompts and completions: exactly as the reference
 * implementation of LoRA prepares them, one pair for each reference text.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";
import { separateMarks, strip } from "../files/text.ts";
import { type BadLine, BrokenRule, parseFields, readLines, requireUtf8 } from "./lines.ts";
import type { TextPair } from "./pairs.ts";
import { tableParser } from "./table_records.ts";

/** A pair of one of the data sets. */
export interface FormattedPair extends TextPair {
  /** WebNLG: true if training has texts of this category. */
  readonly cate?: boolean;
}

/** How to read a data set. */
export interface FormatOptions {
  /** How errors call the file. @default {"the data"} */
  readonly name?: string;
  /**
   * Called with each line, or row of CSV, that is not valid; it is skipped. Without it the first such one is
   * an error. JSON that is one value is read whole or not at all.
   *
   * @param bad Where it is and what is wrong.
   */
  readonly onBadLine?: (bad: BadLine) => void;
}

/**
 * Reads E2E lines `MR||text`. What follows a second "||" is left out.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The pairs.
 * @throws {DataFormatError} If a line has no "||".
 */
export function formatE2eLines(text: string, options: FormatOptions = {}): FormattedPair[] {
  return readLines(text, options.name ?? "the data", (line) => {
    const [prompt, completion] = strip(line).split("||");
    return completion === undefined
      ? new BrokenRule('a line must hold "||"')
      : { prompt: prompt!, completion };
  }, options.onBadLine);
}

/** Attributes that are called otherwise in prompts. */
const E2E_NAMES: Readonly<Record<string, string>> = {
  eatType: "Type",
  priceRange: "price",
  familyFriendly: "family friendly",
};

/**
 * Reads the E2E challenge's CSV files with columns `mr` and `ref`. Prompts become those of the `MR||text` files;
 * texts stay as they are, whereas those of the `MR||text` files are tokenised, by a program that is not known.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The pairs.
 * @throws {DataFormatError} If it is not such a file.
 *
 * @example
 * ```ts
 * import { formatE2eCsv } from "@edgetuner/core";
 *
 * await formatE2eCsv('mr,ref\n"name[Kivo], priceRange[£20-25]","Kivo costs £20-25."\n');
 * // [{ prompt: "name : Kivo | price : £ 20 - 25", completion: "Kivo costs £20-25." }]
 * ```
 */
export async function formatE2eCsv(text: string, options: FormatOptions = {}): Promise<FormattedPair[]> {
  const { name = "the data" } = options;
  const recordsOf = await tableParser({ delimiter: "," });
  const { records: [header, ...rows], problem } = recordsOf(text.replace(/^\uFEFF/, ""));
  if (problem !== null) throw badRow(name, ((rows.at(-1) ?? header)?.last ?? 0) + 1, problem.rule);
  const mr = header?.record.indexOf("mr") ?? -1;
  const ref = header?.record.indexOf("ref") ?? -1;
  if (mr < 0 || ref < 0) {
    throw new DataFormatError(
      `Cannot read ${name} as its columns must be "mr" and "ref": current value is ${
        JSON.stringify(header?.record.join(",") ?? "")
      }`,
    );
  }
  // What is no UTF-8 stands in the text as lone surrogates, which do not get through the library.
  const lines = text.isWellFormed() ? null : text.split("\n");
  const items = rows.map(({ record, first, last }) => {
    const bad = lines?.slice(first - 1, last).find((line) => !line.isWellFormed());
    const item = bad === undefined ? csvPair(record, header!.record.length, mr, ref) : new BrokenRule(
      `a row must be UTF-8: current value is ${JSON.stringify(bad).slice(0, 80)}`,
      { hasValue: true },
    );
    if (!(item instanceof BrokenRule)) return item;
    if (options.onBadLine === undefined) throw badRow(name, first, item.rule);
    options.onBadLine({ name, line: first, problem: item.rule });
    return null;
  });
  return items.filter((item) => item !== null);
}

/** The pair of a row, or the rule that it breaks, with the current value. */
function csvPair(
  fields: readonly string[],
  count: number,
  mr: number,
  ref: number,
): FormattedPair | BrokenRule {
  if (fields.length !== count) {
    return new BrokenRule(`a row must have ${count} fields: current value is ${fields.length}`, {
      hasValue: true,
    });
  }
  const attributes: string[] = [];
  for (const attribute of fields[mr]!.split(/(?<=\]),\s*/)) {
    const [, key, value] = /^([^[\]]+)\[(.*)\]$/s.exec(attribute) ?? [];
    if (key === undefined) {
      return new BrokenRule(
        `an attribute must be written "name[value]": current value is ${JSON.stringify(attribute)}`,
        { hasValue: true },
      );
    }
    attributes.push(`${E2E_NAMES[key] ?? key} : ${separateMarks(value!)}`);
  }
  return { prompt: attributes.join(" | "), completion: strip(fields[ref]!) };
}

function badRow(name: string, line: number, problem: string): DataFormatError {
  return new DataFormatError(`Cannot read ${name}, line ${line}, as ${problem}`);
}

/** Categories of WebNLG 2017 that its training data has. */
const SEEN_CATEGORIES = new Set([
  "Airport",
  "Astronaut",
  "Building",
  "City",
  "ComicsCharacter",
  "Food",
  "Monument",
  "SportsTeam",
  "University",
  "WrittenWork",
]);

/**
 * Reads WebNLG 2017 in JSON: a pair for each text that is marked as good.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The pairs, with `cate`.
 * @throws {DataFormatError} If it is not such a file.
 */
export function formatWebnlg(text: string, options: FormatOptions = {}): FormattedPair[] {
  const { name = "the data" } = options;
  const { entries } = parseJson(text, name) as { entries?: unknown };
  return listOf(entries, name, '"entries"').flatMap((item, i) => {
    const key = String(i + 1);
    const at = `entry ${key}`;
    const entry = fieldsOf(fieldsOf(item, name, at)[key], name, at);
    const prompt = listOf(entry.modifiedtripleset, name, `"modifiedtripleset" of ${at}`)
      .map((triple) => fieldsOf(triple, name, at))
      .map(({ subject, property, object }) => `${subject} : ${property} : ${object}`).join(" | ");
    return listOf(entry.lexicalisations, name, `"lexicalisations" of ${at}`)
      .map((text) => fieldsOf(text, name, at))
      .filter(({ comment }) => comment === "good")
      .map(({ lex }) => ({
        prompt,
        completion: textOf(lex, name, `"lex" of ${at}`),
        cate: SEEN_CATEGORIES.has(String(entry.category)),
      }));
  });
}

/**
 * Reads DART v1.1.1 in JSON: a pair for each annotation.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The pairs.
 * @throws {DataFormatError} If it is not such a file.
 */
export function formatDart(text: string, options: FormatOptions = {}): FormattedPair[] {
  const { name = "the data" } = options;
  return listOf(parseJson(text, name), name, "the file").flatMap((item, i) => {
    const at = `entry ${i + 1}`;
    const entry = fieldsOf(item, name, at);
    const prompt = listOf(entry.tripleset, name, `"tripleset" of ${at}`)
      .map((triple) => listOf(triple, name, `a triple of ${at}`))
      .map(([subject, property, object]) => `${subject} : ${String(property).toLowerCase()} : ${object}`)
      .join(" | ");
    return listOf(entry.annotations, name, `"annotations" of ${at}`).map((annotation) => ({
      prompt,
      completion: textOf(fieldsOf(annotation, name, at).text, name, `"text" of ${at}`),
    }));
  });
}

function parseJson(text: string, name: string): unknown {
  requireUtf8(text, name);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DataFormatError(`Cannot read ${name} as it must be JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function wrongType(name: string, what: string, type: string, value: unknown): DataFormatError {
  const text = (JSON.stringify(value) ?? "undefined").slice(0, 80);
  return new DataFormatError(`Cannot read ${name} as ${what} must be ${type}: current value is ${text}`);
}

function listOf(value: unknown, name: string, what: string): unknown[] {
  if (!Array.isArray(value)) throw wrongType(name, what, "a list", value);
  return value;
}

function fieldsOf(value: unknown, name: string, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrongType(name, what, "an object", value);
  }
  return value as Record<string, unknown>;
}

function textOf(value: unknown, name: string, what: string): string {
  if (typeof value !== "string") throw wrongType(name, what, "a string", value);
  return value;
}

/**
 * Writes pairs as JSON lines with `context`, `completion` and, where known, `cate`: byte for byte what the
 * reference implementation writes.
 *
 * @param pairs The pairs.
 * @returns Content of the file.
 */
export function writeFormatted(pairs: readonly FormattedPair[]): string {
  return pairs.map(({ prompt, completion, cate }) => {
    const flag = cate === undefined ? "" : `, "cate": ${cate}`;
    return `{"context": ${asciiJson(prompt)}, "completion": ${asciiJson(completion)}${flag}}\n`;
  }).join("");
}

/** A string in JSON, with \u escapes for everything that is not ASCII. */
function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/**
 * Reads what {@linkcode writeFormatted} writes, and lines that call the prompt `prompt`.
 *
 * @param text Content of the file.
 * @param options Name.
 * @returns The pairs.
 * @throws {DataFormatError} If a line is not such a pair.
 */
export function parseFormatted(text: string, options: FormatOptions = {}): FormattedPair[] {
  return readLines(text, options.name ?? "the data", (line) => {
    const fields = parseFields(line);
    if (fields instanceof BrokenRule) return fields;
    const { context, prompt = context, completion, cate } = fields;
    if (typeof prompt !== "string") return new BrokenRule('"context" or "prompt" must be a string');
    if (typeof completion !== "string") return new BrokenRule('"completion" must be a string');
    if (cate === undefined) return { prompt, completion };
    return typeof cate === "boolean"
      ? { prompt, completion, cate }
      : new BrokenRule('"cate" must be true or false');
  }, options.onBadLine);
}
