/**
 * Codecs of few bits: integers with a scale for each group of numbers, rounded at random so that the mean of what
 * arrives is what was sent.
 *
 * @module
 */

import { elementsOf, type WireCodec } from "../contracts/codec.ts";
import { ProtocolError } from "../contracts/errors.ts";

/** Numbers of a group at most, unless options say otherwise. */
const GROUP = 64;
/** Smallest scale whose inverse is finite, as the upper half of a float. */
const SMALLEST_SCALE = 2 ** -126;

/** Options of {@linkcode groupCodec}. */
export interface GroupCodecOptions {
  /** Bits of a number. */
  readonly bits: 2 | 4 | 8;
  /**
   * How a number between two integers becomes one of them: `random`, the nearer one the more often, or always
   * `nearest`. Random rounding has errors of mean zero, and about 1.4 times their size.
   *
   * @default {"random"}
   */
  readonly rounding?: "random" | "nearest" | undefined;
  /**
   * Turn each group by a Hadamard matrix first, which spreads a large number over its group. Only groups of a power
   * of two are turned.
   *
   * @default {false}
   */
  readonly rotate?: boolean | undefined;
  /** Most numbers of a group, a power of two of at least 8. @default {64} */
  readonly groupSize?: number | undefined;
}

/** How a tensor is divided: each part of `part` numbers has groups of `size` numbers, the last one what is left. */
interface Groups {
  readonly part: number;
  readonly size: number;
  readonly count: number;
}

/**
 * Groups of a shape: pieces of a row, or some whole rows where rows are short. No group has numbers of two heads, so
 * it does not matter which device has which head.
 */
function groupsOf(shape: readonly number[], most: number): Groups {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.at(-2) ?? 1;
  const numbers = elementsOf(shape);
  const isWide = columns > most;
  const part = isWide ? columns : rows * columns;
  const size = isWide ? most : Math.floor(most / columns) * columns;
  return { part, size, count: numbers / part * Math.ceil(part / size) };
}

/** Calls back with the first number and the end of each group. */
function eachGroup(numbers: number, { part, size }: Groups, run: (start: number, end: number) => void): void {
  for (let from = 0; from < numbers; from += part) {
    for (let start = from; start < from + part; start += size) {
      run(start, Math.min(start + size, from + part));
    }
  }
}

/**
 * Integers of 2, 4 or 8 bits with a scale for each group of at most 64 numbers: 2 bytes a group more. A group is a
 * piece of a row, or some whole rows where rows are short. Its scale is max|group| / 127 (7 with 4 bits, 1 with 2), and
 * each number is off by less than it (rounded at random) or at most half of it (to the nearest).
 *
 * What rounding draws follows from the numbers of the group alone. So runs repeat bit for bit, also where a step
 * begins again or a run goes on from a saved state, and equal rows stay equal.
 *
 * Layout: all scales as the upper halves of floats, then all integers, offset to be positive, low bits first. `encode`
 * throws a RangeError for numbers that are not finite, and `decode` refuses scales and integers that it never writes.
 *
 * @throws {RangeError} If bits or size of a group are not possible.
 * @category Codecs
 *
 * @example
 * ```ts
 * import { groupCodec } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(groupCodec({ bits: 4 }).byteLength([3, 64]), 3 * (32 + 2));
 * ```
 */
export function groupCodec(options: GroupCodecOptions): WireCodec {
  const { bits, rounding = "random", rotate = false, groupSize = GROUP } = options;
  if (bits !== 2 && bits !== 4 && bits !== 8) {
    throw new RangeError(`Cannot make the codec as bits must be 2, 4 or 8: current value is ${bits}`);
  }
  if (!Number.isInteger(Math.log2(groupSize)) || groupSize < 8 || groupSize > 65_536) {
    throw new RangeError(
      `Cannot make the codec as groupSize must be a power of two from 8 to 65536: current value is ${groupSize}`,
    );
  }
  const name = [
    bits === 8 ? "int8-group" : `int${bits}`,
    ...(groupSize === GROUP ? [] : [`${groupSize}`]),
    ...(rounding === "nearest" ? ["nearest"] : []),
    ...(rotate ? ["rotated"] : []),
  ].join("-");
  const form: Form = { name, bits, rounding, rotate, groupSize, most: 2 ** (bits - 1) - 1 };
  return {
    name,
    byteLength: (shape) => 2 * groupsOf(shape, groupSize).count + Math.ceil(elementsOf(shape) * bits / 8),
    encode: (values, shape) => encodeGroups(form, values, shape),
    decode: (bytes, shape) => decodeGroups(form, bytes, shape),
  };
}

/** All options, and the largest integer. */
interface Form {
  readonly name: string;
  readonly bits: number;
  readonly rounding: "random" | "nearest";
  readonly rotate: boolean;
  readonly groupSize: number;
  readonly most: number;
}

function encodeGroups(form: Form, values: Float32Array, shape: readonly number[]): Uint8Array {
  const { bits, most, groupSize } = form;
  const groups = groupsOf(shape, groupSize);
  const bytes = new Uint8Array(2 * groups.count + Math.ceil(values.length * bits / 8));
  const scales = new Uint16Array(bytes.buffer, 0, groups.count);
  const packed = bytes.subarray(2 * groups.count);
  const own = values.slice();
  const words = new Uint32Array(own.buffer);
  let group = 0;
  eachGroup(own.length, groups, (start, end) => {
    // Drawn from the numbers as they come, before they are turned.
    let draw = form.rounding === "random" ? hashOf(words, start, end) : 0;
    const isTurned = form.rotate && isPowerOfTwo(end - start);
    if (isTurned) hadamard(own, start, end);
    let largest = 0;
    for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(own[i]!));
    if (!(largest < Infinity)) throw notFinite(values, start, end);
    const scale = scaleAbove(largest / most);
    scales[group++] = bitsOf(scale) >>> 16;
    const inverse = scale < SMALLEST_SCALE ? 0 : 1 / scale;
    for (let i = start; i < end; i++) {
      let share = 0.5;
      if (form.rounding === "random") {
        draw = Math.imul(draw, 0x915f77f5) + 0x6d2b79f5 | 0;
        share = (draw >>> 8) * 2 ** -24;
      }
      const q = Math.max(-most, Math.min(most, Math.floor(own[i]! * inverse + share))) + most;
      packed[i * bits >>> 3]! |= q << (i * bits & 7);
    }
  });
  return bytes;
}

function decodeGroups(form: Form, bytes: Uint8Array, shape: readonly number[]): Float32Array {
  const { name, bits, most, groupSize } = form;
  const groups = groupsOf(shape, groupSize);
  const values = new Float32Array(elementsOf(shape));
  const scales = new Uint16Array(bytes.buffer, bytes.byteOffset, groups.count);
  const packed = bytes.subarray(2 * groups.count);
  const low = 2 ** bits - 1;
  let group = 0;
  eachGroup(values.length, groups, (start, end) => {
    const scale = floatOf(scales[group++]! << 16);
    if (!(scale >= 0 && scale < Infinity)) {
      throw new ProtocolError(
        `Cannot read ${name} tensor [${shape}] as scales must be finite and at least 0: that of group ${
          group - 1
        } is ${scale}`,
      );
    }
    for (let i = start; i < end; i++) {
      const q = packed[i * bits >>> 3]! >>> (i * bits & 7) & low;
      if (q > 2 * most) {
        throw new ProtocolError(
          `Cannot read ${name} tensor [${shape}] as integers must be at most ${
            2 * most
          }: number ${i} is ${q}`,
        );
      }
      values[i] = (q - most) * scale;
    }
    if (form.rotate && isPowerOfTwo(end - start)) hadamard(values, start, end);
  });
  return values;
}

/** A number that any change of the group's bits changes: where its draws begin. */
function hashOf(words: Uint32Array, start: number, end: number): number {
  let h = 0x9e3779b9;
  for (let i = start; i < end; i++) {
    h = Math.imul(h ^ words[i]!, 0x85ebca6b);
    h ^= h >>> 15;
  }
  h = Math.imul(h ^ h >>> 13, 0xc2b2ae35);
  return h ^ h >>> 16;
}

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

function bitsOf(value: number): number {
  float[0] = value;
  return word[0]!;
}

function floatOf(bits: number): number {
  word[0] = bits;
  return float[0]!;
}

/** The smallest number with eight bits of precision that is not below a number: then no integer is too large. */
function scaleAbove(value: number): number {
  if (value === 0) return 0;
  const bits = bitsOf(value);
  const cut = bits & 0xffff_0000;
  // Rounding to a float may have gone down, so the next one is taken where nothing is left over, too.
  const up = floatOf(cut) >= value ? cut : cut + 0x1_0000;
  const scale = floatOf(up);
  return scale < Infinity ? scale : floatOf(0x7f7f_0000);
}

function isPowerOfTwo(n: number): boolean {
  return n > 1 && (n & n - 1) === 0;
}

/** Turns some numbers in place; twice gives them back. */
function hadamard(values: Float32Array, start: number, end: number): void {
  const n = end - start;
  for (let half = 1; half < n; half *= 2) {
    for (let block = start; block < end; block += 2 * half) {
      for (let i = block; i < block + half; i++) {
        const [a, b] = [values[i]!, values[i + half]!];
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
  const scale = 1 / Math.sqrt(n);
  for (let i = start; i < end; i++) values[i]! *= scale;
}

function notFinite(values: Float32Array, start: number, end: number): RangeError {
  const at = values.subarray(start, end).findIndex((v) => !Number.isFinite(v));
  return at < 0
    ? new RangeError("Cannot encode tensor as its numbers must be smaller: turned ones are too large")
    : new RangeError(`Cannot encode tensor as its numbers must be finite: number ${start + at} is not`);
}
