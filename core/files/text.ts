/**
 * Texts from files; white space and lines as Python has them: the data formats and scores of the paper are defined
 * by Python programs, whose idea of white space is not JavaScript's.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";

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

/** Makes one line of a text: a space for each end of a line. */
export function oneLine(text: string): string {
  return text.split(LINE_END).join(" ");
}

/** Puts spaces round every character that is neither letter, digit nor underscore: one space between words and marks. */
export function separateMarks(text: string): string {
  return collapse(text.replace(/[^\p{L}\p{N}_]/gu, " $& "));
}

/** Reads a file in UTF-8; a `ModelFileError` if it cannot be read. */
export async function readText(path: string | URL): Promise<string> {
  const bytes = await readBytes(path);
  try {
    return strict.decode(bytes);
  } catch (error) {
    throw unreadable(path, error);
  }
}

/**
 * Reads a file with one item a line. A line that is not UTF-8 has U+DCFF, which is no character, where its bytes are
 * wrong: the readers of lines take it for a bad line and can say which one it is.
 *
 * @param path The file, in UTF-8.
 * @returns Its content.
 * @throws {ModelFileError} If it cannot be read.
 */
export async function loadText(path: string | URL): Promise<string> {
  const bytes = await readBytes(path);
  try {
    return strict.decode(bytes);
  } catch {
    // Found line by line.
  }
  const lines: string[] = [];
  for (let start = 0; start <= bytes.length;) {
    const found = bytes.indexOf(0x0a, start);
    const end = found < 0 ? bytes.length : found;
    const line = bytes.subarray(start, end);
    try {
      lines.push(strictWithMark.decode(line));
    } catch {
      lines.push(new TextDecoder().decode(line).replaceAll("\uFFFD", "\uDCFF"));
    }
    start = end + 1;
  }
  return lines.join("\n");
}

const strict = new TextDecoder("utf-8", { fatal: true });
const strictWithMark = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

async function readBytes(path: string | URL): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return await Deno.readFile(path);
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string | URL, error: unknown): ModelFileError {
  return new ModelFileError(
    `Cannot read ${path} as it must be a readable file in UTF-8: ${
      error instanceof Error ? error.message : error
    }`,
    { cause: error },
  );
}
