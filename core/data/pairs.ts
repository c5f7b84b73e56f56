/**
 * Reads fine-tuning data: prompts with the completions that a model is to learn.
 *
 * @module
 */

import { DataFormatError } from "../contracts/errors.ts";
import { loadText } from "../files/text.ts";
import { type BadLine, BrokenRule, parseFields, readLines } from "./lines.ts";

export type { BadLine } from "./lines.ts";

/** A prompt and its completion. */
export interface TextPair {
  /** What is given: a meaning representation, a question. */
  readonly prompt: string;
  /** What the model is to write. */
  readonly completion: string;
}

/**
 * How a file holds its pairs: `lines` is `prompt||completion` in each line, `jsonl` is an object with `prompt`
 * (or `context`) and `completion` in each line.
 */
export type PairFormat = "lines" | "jsonl";

/** How to read pairs. */
export interface PairOptions {
  /** The format. @default {"jsonl" if the name ends with ".jsonl", otherwise "lines"} */
  readonly format?: PairFormat;
  /** How errors call the file. @default {"the data"} */
  readonly name?: string;
  /**
   * Called with each line that is no pair; it is skipped. Without it the first such line is an error.
   *
   * @param bad Where it is and what is wrong.
   */
  readonly onBadLine?: (bad: BadLine) => void;
}

/**
 * Reads pairs, one a line. Each line is stripped at both ends; what is left of prompt and completion is taken
 * as it is. Empty lines are allowed at the end only.
 *
 * @param text The content of the file.
 * @param options Format and name.
 * @returns The pairs, in order.
 * @throws {DataFormatError} If there is no pair, or a line is not a pair of texts that both say something and
 * `onBadLine` is not given.
 *
 * @example
 * ```ts
 * import { parsePairs } from "@edgetuner/core";
 *
 * parsePairs("name[Kivo], area[harbour]||Kivo: harbour pub.\n");
 * // [{ prompt: "name[Kivo], area[harbour]", completion: "Kivo: harbour pub." }]
 * ```
 */
export function parsePairs(text: string, options: PairOptions = {}): TextPair[] {
  const { name = "the data", onBadLine } = options;
  const format = options.format ?? (name.endsWith(".jsonl") ? "jsonl" : "lines");
  const pairs = readLines(text, name, format === "jsonl" ? parsePairObject : parsePairLine, onBadLine);
  if (pairs.length === 0) {
    throw new DataFormatError(`Cannot read ${name} as it must hold at least one pair: no line is valid`);
  }
  return pairs;
}

/** The pair of a line `prompt||completion`, or the rule that it breaks. */
export function parsePairLine(line: string): TextPair | BrokenRule {
  const parts = line.split("||");
  if (parts.length !== 2) return new BrokenRule('a line must hold "||" exactly once');
  return checkPair({ prompt: parts[0]!, completion: parts[1]! });
}

function parsePairObject(line: string): TextPair | BrokenRule {
  const fields = parseFields(line);
  return fields instanceof BrokenRule ? fields : pairOf(fields);
}

/** The pair in the fields of an object, or the rule that they break. */
export function pairOf(fields: Record<string, unknown>): TextPair | BrokenRule {
  const prompt = fields.prompt ?? fields.context;
  const { completion } = fields;
  if (typeof prompt !== "string") return new BrokenRule('"prompt" must be a string');
  if (typeof completion !== "string") return new BrokenRule('"completion" must be a string');
  return checkPair({ prompt, completion });
}

function checkPair(pair: TextPair): TextPair | BrokenRule {
  if (pair.prompt.trim() === "") return new BrokenRule("the prompt must not be empty");
  if (pair.completion.trim() === "") return new BrokenRule("the completion must not be empty");
  return pair;
}

/**
 * Reads pairs from disk.
 *
 * @param path The file, in UTF-8.
 * @param options Format and name.
 * @returns What {@linkcode parsePairs} returns.
 * @throws {ModelFileError} If the file cannot be read.
 * @throws {DataFormatError} If a line is not UTF-8 or not a pair.
 * @category Model and data
 */
export async function loadPairs(path: string | URL, options: PairOptions = {}): Promise<TextPair[]> {
  return parsePairs(await loadText(path), { name: String(path), ...options });
}
