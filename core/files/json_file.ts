/**
 * JSON of files that somebody else wrote: what it may take is bounded before it is parsed.
 *
 * @module
 */

/** What JSON may take. */
export interface JsonLimits {
  /** Most bytes of the file. @default {67108864} */
  readonly maxBytes?: number;
  /** Most values, counted by what separates and opens them. @default {5000000} */
  readonly maxValues?: number;
  /** Most lists and objects within each other. @default {128} */
  readonly maxDepth?: number;
}

/** The largest tokenizers that were seen have half of it. */
const MAX_BYTES = 2 ** 26;
/** A value takes some 50 bytes of memory: a quarter of a gigabyte. The largest tokenizers have half as many. */
const MAX_VALUES = 5_000_000;
/** Whoever walks through what was parsed calls itself as often. */
const MAX_DEPTH = 128;

/**
 * Parses JSON within limits.
 *
 * @param text The JSON.
 * @param limits Most values, deepest nesting.
 * @returns What it holds.
 * @throws {SyntaxError} If it is not JSON.
 * @throws {RangeError} If it is beyond a limit; the message says which.
 */
export function parseJson(text: string, limits: JsonLimits = {}): unknown {
  const { maxValues = MAX_VALUES, maxDepth = MAX_DEPTH } = limits;
  let depth = 0;
  let values = 0;
  let inText = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (inText) {
      if (code === 0x5c) i++; // backslash
      else if (code === 0x22) inText = false;
    } else if (code === 0x22) inText = true;
    else if (code === 0x2c) values++;
    else if (code === 0x5b || code === 0x7b) {
      values++;
      if (++depth > maxDepth) {
        throw new RangeError(
          `lists and objects must be at most ${maxDepth} within each other: they are more`,
        );
      }
    } else if (code === 0x5d || code === 0x7d) depth--;
    if (values > maxValues) throw new RangeError(`it must hold at most ${maxValues} values: it holds more`);
  }
  return JSON.parse(text);
}

/**
 * Reads a text file that may have a length, but no more.
 *
 * @param path The file.
 * @param maxBytes Its largest length.
 * @returns Its content.
 * @throws {RangeError} If it is longer.
 */
export async function readTextWithin(path: string | URL, maxBytes: number = MAX_BYTES): Promise<string> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  const tooLong = () => new RangeError(`it must have at most ${maxBytes} bytes: it has ${size || "more"}`);
  if (size > maxBytes) throw tooLong();
  // Of devices and pipes the size says nothing.
  let bytes = new Uint8Array(Math.max(size, 4096) + 1);
  let length = 0;
  for (;;) {
    const count = await file.read(bytes.subarray(length));
    if (count === null) break;
    length += count;
    if (length > maxBytes) throw tooLong();
    if (length === bytes.length) {
      const larger = new Uint8Array(2 * bytes.length);
      larger.set(bytes);
      bytes = larger;
    }
  }
  return new TextDecoder().decode(bytes.subarray(0, length));
}

/**
 * Reads a JSON file within limits.
 *
 * @param path The file.
 * @param limits Most bytes and values, deepest nesting.
 * @returns What it holds.
 * @throws {SyntaxError} If it is not JSON.
 * @throws {RangeError} If it is beyond a limit; the message says which.
 */
export async function readJson(path: string | URL, limits: JsonLimits = {}): Promise<unknown> {
  return parseJson(await readTextWithin(path, limits.maxBytes), limits);
}
