/**
 * Where the tokens of a text are in it: the bytes that tokens stand for, laid along those of the text.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";

/** Tokens of a text, and where they are in it. */
export interface PlacedTokens {
  /** Token ids, shape [T]. */
  readonly ids: readonly number[];
  /** Where the part of the text that is a token begins, in UTF-16 units, shape [T]. */
  readonly starts: readonly number[];
  /** Where it ends, shape [T]. Bytes of one character have the place of the character. */
  readonly stops: readonly number[];
}

/** What is known of a tokenizer. */
export interface Vocabulary {
  /** Content of the `tokenizer.json`. */
  readonly file: Readonly<Record<string, unknown>>;
  /** Tokens as the vocabulary writes them, by id. */
  readonly texts: ReadonlyMap<number, string>;
  /** Ids of tokens that are matched whole, and written as they are. */
  readonly special: ReadonlySet<number>;
  /** How errors call the file. */
  readonly name: string;
}

/** GPT-2's visible characters for the 256 bytes, and the byte of each. */
export const BYTE_OF: ReadonlyMap<string, number> = new Map(function* () {
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    yield [String.fromCodePoint(printable ? byte : next++), byte] as const;
  }
}());

const SPACE = 0x20;
const utf8 = new TextEncoder();

/**
 * Ids as a list, without those that have no text.
 *
 * @throws {RangeError} If one is no integer of at least 0.
 */
export function knownIds(ids: ArrayLike<number>, isKnown: (id: number) => boolean): number[] {
  const list = Array.from(ids);
  const bad = list.find((id) => !Number.isInteger(id) || id < 0);
  if (bad === undefined) return list.filter(isKnown);
  throw new RangeError(
    `Cannot decode tokens as ids must be integers of at least 0: current value is ${bad}`,
  );
}

/** True if a step, or one within it, has this type. */
function mentions(step: unknown, type: string): boolean {
  return JSON.stringify(step ?? null).includes(`"type":"${type}"`);
}

/** Bytes that a token of a SentencePiece vocabulary stands for. */
function bytesOfPiece(token: string): Uint8Array {
  const [, hex] = /^<0x([0-9A-F]{2})>$/.exec(token) ?? [];
  return hex === undefined ? utf8.encode(token.replaceAll("\u2581", " ")) : Uint8Array.of(parseInt(hex, 16));
}

/** Bytes that a byte-level token stands for; `null` if that depends on its neighbours. */
function bytesOfByteLevel(token: string): Uint8Array | null {
  const bytes = Array.from(token, (character) => BYTE_OF.get(character));
  return bytes.includes(undefined) ? null : Uint8Array.from(bytes as number[]);
}

/** A form of a text, and the place in the text of each of its UTF-16 units. */
interface Written {
  readonly form: string;
  readonly origin: (unit: number) => number;
}

function asItIs(text: string): Written {
  return { form: text, origin: (unit) => unit };
}

/** A text with composed letters; `null` if its places cannot be told. */
function composed(text: string): Written | null {
  const form = text.normalize("NFC");
  if (form === text) return asItIs(text);
  const origins: number[] = [];
  let joined = "";
  let at = 0;
  for (const [cluster] of text.matchAll(/\P{M}?\p{M}*/gsu)) {
    const part = cluster.normalize("NFC");
    for (let i = 0; i < part.length; i++) origins.push(at);
    joined += part;
    at += cluster.length;
  }
  origins.push(text.length);
  return joined === form ? { form, origin: (unit) => origins[unit]! } : null;
}

/** Bytes of a text, and for each the UTF-16 units at which its character begins and ends. */
function layOut(text: string) {
  const bytes = utf8.encode(text);
  const begins = new Uint32Array(bytes.length + 1);
  const stops = new Uint32Array(bytes.length + 1);
  let byte = 0;
  let unit = 0;
  for (const character of text) {
    const code = character.codePointAt(0)!;
    const count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    begins.fill(unit, byte, byte + count);
    stops.fill(unit + character.length, byte, byte + count);
    byte += count;
    unit += character.length;
  }
  begins[byte] = unit;
  stops[byte] = unit;
  return { bytes, begins, stops };
}

function startsAt(text: Uint8Array, at: number, part: Uint8Array): boolean {
  if (at + part.length > text.length) return false;
  for (let i = 0; i < part.length; i++) if (text[at + i] !== part[i]) return false;
  return true;
}

/** Finds where tokens are in the text that they were made of. */
export type Places = (text: string, ids: readonly number[]) => PlacedTokens;

/**
 * How to find where tokens are.
 *
 * @param vocabulary The tokenizer.
 * @returns Finds them. Throws a `ModelFileError` if a token is not what the text has there: some tokenizers write
 * texts otherwise first.
 */
export function placesBy({ file, texts, special, name }: Vocabulary): Places {
  const isByteLevel = mentions(file.decoder, "ByteLevel");
  const composes = mentions(file.normalizer, "NFC");
  const bytesOf: (token: string) => Uint8Array | null = isByteLevel ? bytesOfByteLevel : bytesOfPiece;
  const lacking = isByteLevel ? lackingBytes(texts) : new Set<number>();
  const { unk_token: unknown } = (file.model ?? {}) as { unk_token?: unknown };
  const refuse = (token: string | undefined): never => {
    throw new ModelFileError(
      `Cannot tell where tokens are as ${name} must write texts as they are: current token is ${
        showValue(token)
      }, which the text does not have there`,
    );
  };
  return (text, ids) => {
    const { form, origin } = (composes ? composed(text) : asItIs(text)) ?? refuse(undefined);
    const { bytes, begins, stops } = layOut(form);
    const placed = { ids, starts: [] as number[], stops: [] as number[] };
    let at = 0;
    let isOpen = false;
    for (const id of ids) {
      const token = texts.get(id)!;
      if (isOpen) at = nextAfterUnknown(bytes, at, bytesOf(token) ?? new Uint8Array(0));
      if (isOpen) placed.stops[placed.stops.length - 1] = origin(begins[at]!);
      const part = special.has(id) ? utf8.encode(token) : bytesOf(token);
      if (part === null) return refuse(token);
      // A space that is put before texts is in none of them.
      const forms = part[0] === SPACE ? [part, part.subarray(1)] : [part];
      const found = forms.find((bare) => startsAt(bytes, at, bare)) ??
        forms.find((bare) => findPart(bytes, at, bare, lacking) >= 0);
      if (found === undefined && token !== unknown) return refuse(token);
      if (found !== undefined) at = findPart(bytes, at, found, lacking);
      // How many characters have no token is seen at the next one.
      isOpen = found === undefined;
      const length = found?.length ?? 0;
      placed.starts.push(origin(begins[at]!));
      placed.stops.push(origin(length === 0 ? begins[at]! : stops[at + length - 1]!));
      at += length;
    }
    if (isOpen) placed.stops[placed.stops.length - 1] = text.length;
    return placed;
  };
}

/** Bytes that no token stands for: they are left out of texts. */
function lackingBytes(texts: ReadonlyMap<number, string>): Set<number> {
  const have = new Set(texts.values());
  return new Set(BYTE_OF.entries().filter(([character]) => !have.has(character)).map(([, byte]) => byte));
}

/** Where the token after an unknown one begins: at the next place that has its bytes. */
function nextAfterUnknown(bytes: Uint8Array, at: number, part: Uint8Array): number {
  for (let from = at + 1; from + part.length <= bytes.length; from++) {
    if (startsAt(bytes, from, part)) return from;
  }
  return at;
}

/** The first place of a part, after nothing but what may be left out: white space at special tokens, lacking bytes. */
function findPart(bytes: Uint8Array, at: number, part: Uint8Array, lacking: ReadonlySet<number>): number {
  for (let from = at; from <= bytes.length; from++) {
    if (startsAt(bytes, from, part)) return from;
    const byte = bytes[from];
    if (byte === undefined || !(lacking.has(byte) || byte === SPACE || (byte >= 9 && byte <= 13))) return -1;
  }
  return -1;
}
