/**
 * Texts from files; white space and lines as Python has them: the data formats and scores of the paper are defined
 * by Python programs, whose idea of white space is not JavaScript's.
 *
 * @module
 */

import { CheckpointError } from "./errors.ts";

const WHITE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const ENDS = new RegExp(`^[${WHITE}]+|[${WHITE}]+$`, "g");
const RUNS = new RegExp(`[${WHITE}]+`, "g");
const LEADING = new RegExp(`^[${WHITE}]+`);
// deno-lint-ignore no-control-regex -- separators of ASCII end lines in Python
const LINE_END = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/;
const TRAILING = new RegExp(`[${WHITE}]+$`);

/** Cuts Unicode white space off both ends. Unlike `trim` it keeps U+FEFF, and cuts U+001C to U+001F and U+0085. */
export function strip(text: string): string {
  return text.replace(ENDS, "");
}

/** Cuts Unicode white space off the start. */
export function stripStart(text: string): string {
  return text.replace(LEADING, "");
}

/** Cuts Unicode white space off the end. */
export function stripEnd(text: string): string {
  return text.replace(TRAILING, "");
}

/** Words between white space; none for a text of white space alone. */
export function splitWords(text: string): string[] {
  const stripped = strip(text);
  return stripped === "" ? [] : stripped.split(RUNS);
}

/** Makes one space of every run of white space, and none at the ends. */
export function collapse(text: string): string {
  return strip(text).replace(RUNS, " ");
}

/**
 * Lines of a text, without the characters that end them. All line ends of Unicode count; a last line without
 * one counts if it is not empty.
 */
export function splitLines(text: string): string[] {
  const lines = text.split(LINE_END);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** Puts spaces round every character that is neither letter, digit nor underscore: one space between words and marks. */
export function separateMarks(text: string): string {
  return collapse(text.replace(/[^\p{L}\p{N}_]/gu, " $& "));
}

/** Reads a file in UTF-8; a `CheckpointError` if it cannot be read. */
export async function readText(path: string | URL): Promise<string> {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (error) {
    throw new CheckpointError(
      `Cannot read ${path} as it must be a readable file in UTF-8: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
}
