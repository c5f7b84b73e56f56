/**
 * Files of text read line by line, so that memory holds a line and not the file.
 *
 * @module
 */

import { DataFormatError, ModelFileError } from "../contracts/errors.ts";

/** Most bytes of a line: a text of a million words has a tenth of them. */
export const MAX_LINE_BYTES = 2 ** 26;

/** A line of a file. */
export interface FileLine {
  /** Its text, without what ends it; bytes that are not UTF-8 are U+FFFD. */
  readonly text: string;
  /** Its number, from 1 on. */
  readonly line: number;
  /** What is wrong with its bytes, as the end of a sentence; `null` if they are UTF-8. */
  readonly problem: string | null;
}

/**
 * Reads lines as they come. A byte-order mark is left out; UTF-16 is read where its mark says so. A line that is not
 * UTF-8 has a problem, which names the byte and what it would be in Latin-1.
 *
 * @param stream Bytes of the file.
 * @param name How errors call the file.
 * @param maxBytes Most bytes of a line.
 * @throws {DataFormatError} If a line is longer.
 */
export async function* fileLines(
  stream: ReadableStream<Uint8Array>,
  name: string,
  maxBytes = MAX_LINE_BYTES,
): AsyncGenerator<FileLine> {
  let number = 0;
  for await (const bytes of byteLines(stream, name, maxBytes)) {
    number++;
    let text: string;
    let problem: string | null = null;
    try {
      text = strict.decode(number === 1 ? withoutMark(bytes) : bytes);
    } catch {
      text = lossy.decode(bytes);
      problem = notUtf8(bytes);
    }
    yield { text: text.endsWith("\r") ? text.slice(0, -1) : text, line: number, problem };
  }
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const latin1 = new TextDecoder("latin1");

function withoutMark(bytes: Uint8Array): Uint8Array {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}

/** Which byte is wrong. */
function notUtf8(bytes: Uint8Array): string {
  let [low, high] = [0, bytes.length];
  // The longest start that may still go on to be UTF-8.
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (mayBeUtf8(bytes.subarray(0, middle))) low = middle;
    else high = middle - 1;
  }
  // Where the letter begins that is not whole: what comes before is UTF-8.
  let at = Math.min(low, bytes.length - 1);
  while (at > 0 && !isWhole(bytes.subarray(0, at))) at--;
  const byte = bytes[at]!;
  return `a line must be UTF-8: current value is byte 0x${byte.toString(16)} at column ${at + 1}, "${
    latin1.decode(Uint8Array.of(byte))
  }" in Latin-1; iconv -f latin1 -t utf-8 makes UTF-8 of such a file`;
}

function isWhole(bytes: Uint8Array): boolean {
  try {
    strict.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

function mayBeUtf8(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true });
    return true;
  } catch {
    return false;
  }
}

async function* byteLines(
  stream: ReadableStream<Uint8Array>,
  name: string,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  let rest: Uint8Array[] = [];
  let size = 0;
  let number = 1;
  for await (const chunk of stream) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      yield joined([...rest, chunk.subarray(start, end)]);
      number++;
      [rest, size, start] = [[], 0, end + 1];
    }
    rest.push(chunk.subarray(start));
    size += chunk.length - start;
    if (size > maxBytes) {
      throw new DataFormatError(
        `Cannot read ${name}, line ${number}, as a line must have at most ${maxBytes} bytes: it has more`,
      );
    }
  }
  if (size > 0) yield joined(rest);
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A file that is open, with its first bytes. */
export interface OpenFile {
  /** The first bytes, as they are. */
  readonly head: Uint8Array;
  /** All bytes; of a file that gzip has made smaller, those that were in it, and UTF-16 as UTF-8. */
  readonly stream: ReadableStream<Uint8Array>;
}

/** Bytes that tell what a file is. */
const HEAD_BYTES = 2 ** 16;

/**
 * Opens a file to be read once.
 *
 * @throws {ModelFileError} If it cannot be read.
 */
export async function openFile(path: string): Promise<OpenFile> {
  try {
    const file = await Deno.open(path);
    const first = new Uint8Array(HEAD_BYTES);
    const count = await file.read(first) ?? 0;
    await file.seek(0, Deno.SeekMode.Start);
    const head = first.subarray(0, count);
    return { head, stream: decoded(file.readable, head) };
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : cause;
    throw new ModelFileError(`Cannot read ${path} as it must be a readable file: ${why}`, { cause });
  }
}

function decoded(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  head: Uint8Array,
): ReadableStream<Uint8Array> {
  if (head[0] === 0x1f && head[1] === 0x8b) return stream.pipeThrough(new DecompressionStream("gzip"));
  const is16 = (head[0] === 0xff && head[1] === 0xfe) || (head[0] === 0xfe && head[1] === 0xff);
  if (!is16) return stream;
  const from = new TextDecoderStream(head[0] === 0xff ? "utf-16le" : "utf-16be", { fatal: true });
  return stream.pipeThrough(from).pipeThrough(new TextEncoderStream());
}
