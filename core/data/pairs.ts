/**
 * Reads fine-tuning data: prompts with the completions that a model is to learn.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";

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
}

/**
 * Reads pairs, one a line. Each line is stripped at both ends; what is left of prompt and completion is taken
 * as it is. Empty lines are allowed at the end only.
 *
 * @param text The content of the file.
 * @param options Format and name.
 * @returns The pairs, in order.
 * @throws {CheckpointError} If a line is not a pair of texts that both say something, or there is no pair.
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
  const { name = "the data" } = options;
  const format = options.format ?? (name.endsWith(".jsonl") ? "jsonl" : "lines");
  const parse = format === "jsonl" ? parseObject : parseLine;
  const lines = text.replace(/^\uFEFF/, "").trimEnd().split("\n");
  if (lines.length === 1 && lines[0] === "") {
    throw new CheckpointError(`Cannot read ${name} as it must hold at least one pair: it is empty`);
  }
  return lines.map((raw, index) => {
    const line = raw.trim();
    const pair = parse(line);
    const rule = typeof pair === "string"
      ? pair
      : pair.prompt.trim() === ""
      ? "the prompt must not be empty"
      : pair.completion.trim() === ""
      ? "the completion must not be empty"
      : null;
    if (typeof pair === "string" || rule !== null) {
      const value = JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}...` : line);
      throw new CheckpointError(
        `Cannot read ${name}, line ${index + 1}, as ${rule}: current value is ${value}`,
      );
    }
    return pair;
  });
}

/** A pair, or the rule that the line breaks. */
function parseLine(line: string): TextPair | string {
  const parts = line.split("||");
  if (parts.length !== 2) return 'a line must hold "||" exactly once';
  return { prompt: parts[0]!, completion: parts[1]! };
}

/** A pair, or the rule that the line breaks. */
function parseObject(line: string): TextPair | string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return "a line must be JSON";
  }
  if (typeof value !== "object" || value === null) return "a line must be an object";
  const fields = value as Record<string, unknown>;
  const prompt = fields.prompt ?? fields.context;
  const { completion } = fields;
  if (typeof prompt !== "string") return '"prompt" must be a string';
  if (typeof completion !== "string") return '"completion" must be a string';
  return { prompt, completion };
}

/**
 * Reads pairs from disk.
 *
 * @param path The file, in UTF-8.
 * @param options Format and name.
 * @returns What {@linkcode parsePairs} returns.
 * @throws {CheckpointError} If the file cannot be read, is not UTF-8, or a line is not a pair.
 */
export async function loadPairs(path: string | URL, options: PairOptions = {}): Promise<TextPair[]> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (error) {
    throw new CheckpointError(
      `Cannot read ${path} as it must be a readable file in UTF-8: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
  return parsePairs(text, { name: String(path), ...options });
}
