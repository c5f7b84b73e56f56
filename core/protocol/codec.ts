/**
 * Wire codecs: how the numbers of a step are written on the wire. A run has one codec, or one for each tensor of a step
 * (E, X, Deltas, h_L and their gradients), named in its settings. Masks and statistics have none.
 *
 * A codec is a plugin: a factory returns a plain object, which is passed to both sides. There is no
 * registry.
 *
 * @module
 */

import { elementsOf, type WireCodec } from "../contracts/codec.ts";
import { HandshakeError, ProtocolError } from "../contracts/errors.ts";
import { groupCodec } from "./group_codec.ts";

/**
 * 32-bit floats as they are: no loss, 4 bytes a number.
 *
 * @category Codecs
 *
 * @example
 * ```ts
 * import { f32Codec } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(f32Codec().byteLength([2, 3]), 24);
 * ```
 */
export function f32Codec(): WireCodec {
  return {
    name: "f32",
    byteLength: (shape) => 4 * elementsOf(shape),
    encode: bytesOf,
    decode: (bytes, shape) =>
      new Float32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, elementsOf(shape)),
  };
}

/** Largest finite half-precision number. */
const F16_MAX = 65504;

/**
 * Half precision: 2 bytes a number, relative error at most 2^-11 above 6.1e-5, absolute error at most
 * 3e-8 below. Numbers beyond +-65504 become +-65504.
 *
 * `encode` throws a RangeError for NaN, which would spread, and `decode` refuses what is not finite.
 *
 * @category Codecs
 *
 * @example
 * ```ts
 * import { f16Codec } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(f16Codec().byteLength([2, 3]), 12);
 * ```
 */
export function f16Codec(): WireCodec {
  return {
    name: "f16",
    byteLength: (shape) => 2 * elementsOf(shape),
    encode(values) {
      const written = new Float16Array(values.length);
      for (let i = 0; i < values.length; i++) {
        const value = values[i]!;
        written[i] = value > F16_MAX ? F16_MAX : value < -F16_MAX ? -F16_MAX : value;
        if (Number.isNaN(value)) throw notANumber(i);
      }
      return bytesOf(written);
    },
    decode(bytes, shape) {
      const table = halvesTable();
      const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, elementsOf(shape));
      const values = new Float32Array(bits.length);
      for (let i = 0; i < bits.length; i++) {
        const half = bits[i]!;
        if ((half & 0x7c00) === 0x7c00) {
          throw new ProtocolError(
            `Cannot read f16 tensor [${shape}] as its numbers must be finite: number ${i} is not`,
          );
        }
        values[i] = table[half]!;
      }
      return values;
    },
  };
}

let halves: Float32Array | null = null;

/** Every half-precision number by its bits: faster than converting. */
function halvesTable(): Float32Array {
  return halves ??= new Float32Array(
    new Float16Array(Uint16Array.from({ length: 1 << 16 }, (_, i) => i).buffer),
  );
}

/** Options of `int8Codec`. */
export interface Int8CodecOptions {
  /**
   * Add what rounding lost of a tensor to the next one of its stream, so that errors do not add up
   * over the steps. It is lost whenever the shape changes, and helps only where tensors of a stream
   * have the same meaning in every step. The codec is then named `int8-feedback`.
   *
   * @default {false}
   */
  readonly errorFeedback?: boolean;
}

/**
 * 8-bit integers with a scale for each row: 1 byte a number and 4 bytes a row. A row is along the last
 * dimension; its scale is max|row| / 127, and each number is off by at most half of it (rows without
 * any number above 1.5e-36 become zero).
 *
 * Layout: all scales as f32, then all integers. `encode` throws a RangeError for numbers that are not
 * finite, and `decode` refuses scales that are negative or not finite.
 *
 * @category Codecs
 *
 * @example
 * ```ts
 * import { int8Codec } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(int8Codec().byteLength([2, 3]), 14);
 * ```
 */
export function int8Codec({ errorFeedback = false }: Int8CodecOptions = {}): WireCodec {
  return {
    name: errorFeedback ? "int8-feedback" : "int8",
    byteLength: (shape) => elementsOf(shape) + 4 * rowsOf(shape),
    encode(values, shape, stream) {
      if (!errorFeedback) return encodeInt8(values, shape);
      const sums = values.slice();
      const lost = stream.state as Float32Array | undefined;
      if (lost?.length === sums.length) { for (let i = 0; i < sums.length; i++) sums[i]! += lost[i]!; }
      const bytes = encodeInt8(sums, shape);
      const read = decodeInt8(bytes, shape);
      for (let i = 0; i < sums.length; i++) sums[i]! -= read[i]!;
      stream.state = sums;
      return bytes;
    },
    decode: decodeInt8,
  };
}

/** Smallest float of full precision: a smaller scale could be too small for its row. */
const SMALLEST_SCALE = 2 ** -126;

function encodeInt8(values: Float32Array, shape: readonly number[]): Uint8Array<ArrayBuffer> {
  const rows = rowsOf(shape);
  const columns = values.length / rows;
  const bytes = new Uint8Array(4 * rows + values.length);
  const scales = new Float32Array(bytes.buffer, 0, rows);
  const integers = new Int8Array(bytes.buffer, 4 * rows);
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * columns;
    let largest = 0;
    for (let i = row * columns; i < end; i++) largest = Math.max(largest, Math.abs(values[i]!));
    if (!(largest < Infinity)) {
      throw notANumber(values.subarray(0, end).findIndex((v) => !Number.isFinite(v)));
    }
    const scale = Math.fround(largest / 127);
    if (scale < SMALLEST_SCALE) continue;
    scales[row] = scale;
    const inverse = 1 / scale;
    for (let i = row * columns; i < end; i++) integers[i] = Math.floor(values[i]! * inverse + 0.5);
  }
  return bytes;
}

function decodeInt8(bytes: Uint8Array, shape: readonly number[]): Float32Array {
  const rows = rowsOf(shape);
  const scales = new Float32Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, rows);
  const integers = new Int8Array(bytes.buffer, bytes.byteOffset + 4 * rows, elementsOf(shape));
  const values = new Float32Array(integers.length);
  const columns = values.length / rows;
  for (let row = 0; row < rows; row++) {
    const scale = scales[row]!;
    if (!(scale >= 0 && scale < Infinity)) {
      throw new ProtocolError(
        `Cannot read int8 tensor [${shape}] as scales must be finite and at least 0: that of row ${row} is ${scale}`,
      );
    }
    const end = (row + 1) * columns;
    for (let i = row * columns; i < end; i++) values[i] = integers[i]! * scale;
  }
  return values;
}

/** The codecs that every machine knows: `f32`, `f16`, `int8`, `int8-feedback`, `int8-group` and `int4`. */
export function builtInCodecs(): WireCodec[] {
  return [
    f32Codec(),
    f16Codec(),
    int8Codec(),
    int8Codec({ errorFeedback: true }),
    groupCodec({ bits: 8 }),
    groupCodec({ bits: 4 }),
  ];
}

/**
 * Checks that a plugin's codec has all that a run calls.
 *
 * @param codec What a factory returned.
 * @throws {TypeError} If something is missing; the message says what.
 *
 * @example
 * ```ts
 * import { checkCodec, f16Codec } from "@edgetuner/core";
 *
 * checkCodec({ ...f16Codec(), name: "half" }); // passes
 * ```
 */
export function checkCodec(codec: unknown): asserts codec is WireCodec {
  const fields = (codec ?? {}) as Readonly<Record<string, unknown>>;
  if (typeof fields.name !== "string") {
    throw new TypeError(
      `Cannot use the codec as its 'name' must be a string: current value is ${
        codec === null || typeof codec !== "object" ? String(codec) : JSON.stringify(fields.name)
      }`,
    );
  }
  const missing = ["byteLength", "encode", "decode"].find((name) => typeof fields[name] !== "function");
  if (missing !== undefined) {
    throw new TypeError(
      `Cannot use codec "${fields.name}" as '${missing}' must be a function: it is ${typeof fields[missing]}`,
    );
  }
}

/**
 * Finds a codec by name among the built-in ones and others.
 *
 * @param name Name from the run settings.
 * @param others Codecs from elsewhere. @default {[]}
 * @throws {HandshakeError} If there is none of that name; the message says which are known.
 * @throws {TypeError} If two codecs have the same name, a name is not allowed, or one of `others` is no codec.
 */
export function findCodec(name: string, others: readonly WireCodec[] = []): WireCodec {
  others.forEach(checkCodec);
  const known = [...builtInCodecs(), ...others];
  const names = known.map((codec) => codec.name);
  const bad = names.find((n, i) => n.length < 1 || n.length > 32 || n === "u8" || names.indexOf(n) !== i);
  if (bad !== undefined) {
    throw new TypeError(
      `Cannot use codec "${bad}" as names must have 1 to 32 characters, differ, and not be "u8": known are ${
        names.join(", ")
      }`,
    );
  }
  const found = known.find((codec) => codec.name === name);
  if (found === undefined) {
    throw new HandshakeError(
      `Cannot take part in the run as its codec must be one of ${
        names.join(", ")
      }: current value is "${name}"`,
    );
  }
  return found;
}

function rowsOf(shape: readonly number[]): number {
  return elementsOf(shape.slice(0, -1));
}

function bytesOf(values: Float32Array | Float16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

function notANumber(index: number): RangeError {
  return new RangeError(`Cannot encode tensor as its numbers must be finite: number ${index} is not`);
}
