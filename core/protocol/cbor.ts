/**
 * CBOR from others, read within bounds. The bytes are walked first, and nothing is built of them: whatever is
 * not plain data, is too deep, too long or too much is refused then. What is left is small, and a library reads it.
 *
 * Allowed are maps with text keys, lists, texts, byte strings, numbers, true, false and null, all of definite
 * length. In `PLAIN_DATA` also undefined and typed arrays (RFC 8746). Every other tag is refused.
 *
 * @module
 */

import { decode, encode, Token, Type } from "cborg";
import { showValue } from "../contracts/plain_text.ts";

/** What may be in CBOR. */
export interface CborLimits {
  /** Maps and lists in each other. */
  readonly depth: number;
  /** Entries of a map. */
  readonly keys: number;
  /** Entries of a list. */
  readonly items: number;
  /** Bytes of a text, as UTF-8. */
  readonly text: number;
  /** Values and keys in all. */
  readonly values: number;
  /** True if undefined and typed arrays may come. */
  readonly plainData: boolean;
}

/** Limits of a frame. */
export const FRAME_LIMITS: CborLimits = {
  depth: 6,
  keys: 24,
  items: 4096,
  text: 2048,
  values: 8192,
  plainData: false,
};

/** Limits of plain data in files of ours, such as a pruner's state. */
const STATE_LIMITS: CborLimits = {
  depth: 32,
  keys: 65_536,
  items: 1 << 20,
  text: 1 << 20,
  values: 1 << 20,
  plainData: true,
};

/** Typed arrays by their tag (RFC 8746, little-endian). */
const TYPED_ARRAYS = new Map<
  number,
  { readonly BYTES_PER_ELEMENT: number; readonly name: string; new (buffer: ArrayBuffer): ArrayBufferView }
>([
  [69, Uint16Array],
  [70, Uint32Array],
  [72, Int8Array],
  [77, Int16Array],
  [78, Int32Array],
  [85, Float32Array],
  [86, Float64Array],
]);

/** Bytes that a value, an entry of a list and an entry of a map take in memory, about. */
const VALUE_BYTES = 16;
const ITEM_BYTES = 8;
const KEY_BYTES = 48;
const OBJECT_BYTES = 96;

const NAMES = ["integer", "integer", "byte string", "text", "list", "map", "tag", "simple value"] as const;

/** Walks over CBOR without building anything. */
class Walker {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #limits: CborLimits;
  #at = 0;
  #values = 0;
  /** Bytes that what was walked over takes in memory, about. */
  cost = 0;

  constructor(bytes: Uint8Array, limits: CborLimits) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#limits = limits;
  }

  /** Walks over the one value that the bytes are. */
  walk(): void {
    this.#value(0);
    if (this.#at !== this.#bytes.length) this.#refuse(`end with its only value, at byte ${this.#at}`);
  }

  #value(depth: number): void {
    const limits = this.#limits;
    if (++this.#values > limits.values) this.#refuse(`hold at most ${limits.values} values`);
    const first = this.#byte();
    const major = first >> 5;
    this.cost += VALUE_BYTES;
    if (major === 7) return this.#simple(first & 31);
    const n = this.#argument(major, first & 31);
    switch (major) {
      case 2:
        return this.#skip(major, n, this.#bytes.length);
      case 3:
        return this.#skip(major, n, limits.text);
      case 4:
        this.#open(major, n, limits.items, depth);
        for (let i = 0; i < n; i++) this.#value(depth + 1);
        return;
      case 5:
        this.#open(major, n, limits.keys, depth);
        for (let i = 0; i < n; i++) {
          const key = this.#byte();
          if (key >> 5 !== 3) this.#refuse(`have texts as keys of maps: one is a ${NAMES[key >> 5]}`);
          this.#skip(3, this.#argument(3, key & 31), Math.min(limits.text, 256));
          this.#value(depth + 1);
        }
        return;
      case 6:
        return this.#typedArray(n);
    }
  }

  #simple(info: number): void {
    // false, true, null, and, in plain data, undefined; floats of three sizes.
    if (info >= 20 && info <= (this.#limits.plainData ? 23 : 22)) return;
    if (info < 25 || info > 27) this.#refuse(`hold plain data only: simple value ${info} is none`);
    this.#move(1 << (info - 24));
  }

  #typedArray(tag: number): void {
    const array = this.#limits.plainData ? TYPED_ARRAYS.get(tag) : undefined;
    if (array === undefined) this.#refuse(`hold plain data only: tag ${tag} is none`);
    const first = this.#byte();
    if (first >> 5 !== 2) this.#refuse(`have bytes in a typed array: it is a ${NAMES[first >> 5]}`);
    const n = this.#argument(2, first & 31);
    if (n % array!.BYTES_PER_ELEMENT !== 0) this.#refuse(`have whole numbers in a typed array: ${n} bytes`);
    this.#skip(2, n, this.#bytes.length);
  }

  /** The number in a value's head: itself, or a length. */
  #argument(major: number, info: number): number {
    if (info < 24) return info;
    if (info > 27) this.#refuse(`have definite lengths: a ${NAMES[major]} has none`);
    const size = 1 << (info - 24);
    const at = this.#at;
    this.#move(size);
    if (size === 1) return this.#bytes[at]!;
    if (size === 2) return this.#view.getUint16(at);
    if (size === 4) return this.#view.getUint32(at);
    const n = this.#view.getUint32(at) * 2 ** 32 + this.#view.getUint32(at + 4);
    if (n > Number.MAX_SAFE_INTEGER) this.#refuse(`have numbers below 2^53: a ${NAMES[major]} has ${n}`);
    return n;
  }

  #open(major: number, n: number, limit: number, depth: number): void {
    if (depth >= this.#limits.depth) this.#refuse(`be at most ${this.#limits.depth} levels deep`);
    // Each entry takes a byte at least, in a map two.
    const most = Math.min(limit, (this.#bytes.length - this.#at) >> (major - 4));
    if (n > most) this.#refuse(`have at most ${most} entries in a ${NAMES[major]} here: it says ${n}`);
    this.cost += OBJECT_BYTES + n * (major === 4 ? ITEM_BYTES : KEY_BYTES);
  }

  #skip(major: number, n: number, limit: number): void {
    const left = this.#bytes.length - this.#at;
    if (n > limit || n > left) {
      this.#refuse(`have at most ${Math.min(limit, left)} bytes in a ${NAMES[major]} here: it says ${n}`);
    }
    this.#at += n;
    this.cost += major === 2 ? OBJECT_BYTES + n : 2 * n;
  }

  #byte(): number {
    const at = this.#at;
    this.#move(1);
    return this.#bytes[at]!;
  }

  #move(n: number): void {
    if (this.#at + n > this.#bytes.length) this.#refuse(`be whole: it ends at byte ${this.#bytes.length}`);
    this.#at += n;
  }

  #refuse(rule: string): never {
    throw new SyntaxError(`it must ${rule}`);
  }
}

/**
 * Reads CBOR within limits.
 *
 * @returns The value, and the bytes that it takes in memory, about.
 * @throws {SyntaxError} If it is not CBOR, or holds what the limits do not allow; the message begins with "it must".
 */
export function readCbor(
  bytes: Uint8Array,
  limits: CborLimits,
): { readonly value: unknown; readonly cost: number } {
  // A view of the plain class: what is sliced from it is a copy, also of a Buffer.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const walker = new Walker(plain, limits);
  walker.walk();
  try {
    const value: unknown = decode(plain, {
      allowIndefinite: false,
      rejectDuplicateMapKeys: true,
      tags: limits.plainData ? DECODERS : {},
    });
    return { value, cost: walker.cost };
  } catch (cause) {
    throw new SyntaxError(`it must be CBOR: ${(cause as Error).message}`, { cause });
  }
}

/** Writes plain data that `readCbor` reads back; fields that are undefined are left out. */
export function writeCbor(value: unknown): Uint8Array<ArrayBuffer> {
  const bytes = encode(value, { ignoreUndefinedProperties: true });
  return new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
}

const DECODERS: Record<number, (decode: () => unknown) => unknown> = Object.fromEntries(
  [...TYPED_ARRAYS].map(([tag, TypedArray]) => [
    tag,
    (content: () => unknown) => new TypedArray((content() as Uint8Array<ArrayBuffer>).slice().buffer),
  ]),
);

const ENCODERS = {
  // The library would write -0 as 0.
  number: (n: number) => Object.is(n, -0) ? [new Token(Type.float, n)] : null,
  ...Object.fromEntries(
    [...TYPED_ARRAYS].map(([tag, { name }]) => [
      name,
      ({ buffer, byteOffset, byteLength }: ArrayBufferView) => [
        new Token(Type.tag, tag),
        new Token(Type.bytes, new Uint8Array(buffer, byteOffset, byteLength)),
      ],
    ]),
  ),
};

/**
 * Writes plain data as run states hold it, such as a pruner's state: null, undefined, true, false, numbers,
 * texts, lists, objects, and typed arrays of up to 32-bit integers or of floats.
 *
 * @throws {TypeError} If a value is anything else, or there is more than `decodePlainData` reads.
 */
export function encodePlainData(value: unknown): Uint8Array<ArrayBuffer> {
  requirePlain(value, STATE_LIMITS.depth);
  // Objects keep the order of their keys.
  const encoded = encode(value, { typeEncoders: ENCODERS, mapSorter: () => 0 });
  const bytes = new Uint8Array(encoded.buffer as ArrayBuffer, encoded.byteOffset, encoded.byteLength);
  try {
    new Walker(bytes, STATE_LIMITS).walk();
  } catch (cause) {
    throw new TypeError(`Cannot write plain data as ${(cause as Error).message}`, { cause });
  }
  return bytes;
}

/**
 * Reads what `encodePlainData` wrote, within bounds: at most 2^20 values, 32 levels deep.
 *
 * @throws {SyntaxError} If it is anything else.
 */
export function decodePlainData(bytes: Uint8Array): unknown {
  try {
    return readCbor(bytes, STATE_LIMITS).value;
  } catch (cause) {
    throw new SyntaxError(`Cannot read plain data as ${(cause as Error).message}`, { cause });
  }
}

function requirePlain(value: unknown, depth: number): void {
  if (value === null || value === undefined) return;
  if (typeof value === "boolean" || typeof value === "number" || typeof value === "string") return;
  if (typeof value === "object" && depth >= 0) {
    if (value instanceof Uint8Array && value.constructor === Uint8Array) return;
    for (const TypedArray of TYPED_ARRAYS.values()) if (value instanceof TypedArray) return;
    const prototype = Object.getPrototypeOf(value);
    if (Array.isArray(value) || prototype === Object.prototype || prototype === null) {
      for (const part of Object.values(value)) requirePlain(part, depth - 1);
      return;
    }
  }
  throw new TypeError(
    `Cannot write plain data as it must be null, numbers, texts, lists, objects of at most ${STATE_LIMITS.depth} levels and typed arrays: one value is ${
      typeof value === "object" ? value.constructor?.name ?? "an object" : showValue(String(value))
    }`,
  );
}
