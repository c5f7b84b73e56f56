/**
 * Element types of GGML, turned into float32 exactly as ggml does: every product and every sum is
 * rounded to float32.
 *
 * A block is `count` elements in `bytes` bytes. Names: d scale, m minimum, q quantum.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";

const f32 = Math.fround;

/** Reads one block at byte `at` and writes its elements from `to` on. */
type Decode = (view: DataView, at: number, out: Float32Array, to: number) => void;

interface BlockType {
  readonly count: number;
  readonly bytes: number;
  readonly decode: Decode;
}

/** Two quanta of four bits: the low halves of a block's bytes come first, then the high ones. */
function nibbles(at: number, set: (i: number, q: number) => void, view: DataView): void {
  for (let i = 0; i < 16; i++) {
    const byte = view.getUint8(at + i);
    set(i, byte & 0xf);
    set(i + 16, byte >> 4);
  }
}

/** 6-bit scale and minimum number j of a K-quant's twelve bytes. */
function scaleAndMinimum(view: DataView, at: number, j: number): [number, number] {
  const byte = (i: number) => view.getUint8(at + i);
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63];
  return [
    (byte(j + 4) & 0xf) | ((byte(j - 4) >> 6) << 4),
    (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4),
  ];
}

/** Q4_K and Q5_K: eight groups of 32 with a scale and a minimum each; Q5_K has a fifth bit apart. */
function decodeK(high: number, low: number): Decode {
  return (view, at, out, to) => {
    const d = view.getFloat16(at, true);
    const minimum = view.getFloat16(at + 2, true);
    for (let group = 0; group < 8; group++) {
      const [scale, least] = scaleAndMinimum(view, at + 4, group);
      const [factor, offset] = [f32(d * scale), f32(minimum * least)];
      const odd = group % 2 === 1;
      for (let i = 0; i < 32; i++) {
        const byte = view.getUint8(at + low + (group >> 1) * 32 + i);
        let q = odd ? byte >> 4 : byte & 0xf;
        if (high > 0) q |= ((view.getUint8(at + high + i) >> group) & 1) << 4;
        out[to + group * 32 + i] = f32(f32(factor * q) - offset);
      }
    }
  };
}

const TYPES: Readonly<Record<string, BlockType>> = {
  F32: { count: 1, bytes: 4, decode: (view, at, out, to) => out[to] = view.getFloat32(at, true) },
  F16: { count: 1, bytes: 2, decode: (view, at, out, to) => out[to] = view.getFloat16(at, true) },
  BF16: {
    count: 1,
    bytes: 2,
    decode: (view, at, out, to) => {
      new Uint32Array(out.buffer, out.byteOffset + to * 4, 1)[0] = view.getUint16(at, true) << 16;
    },
  },
  Q8_0: {
    count: 32,
    bytes: 34,
    decode: (view, at, out, to) => {
      const d = view.getFloat16(at, true);
      for (let i = 0; i < 32; i++) out[to + i] = d * view.getInt8(at + 2 + i);
    },
  },
  Q4_0: {
    count: 32,
    bytes: 18,
    decode: (view, at, out, to) => {
      const d = view.getFloat16(at, true);
      nibbles(at + 2, (i, q) => out[to + i] = d * (q - 8), view);
    },
  },
  Q4_1: {
    count: 32,
    bytes: 20,
    decode: (view, at, out, to) => {
      const [d, m] = [view.getFloat16(at, true), view.getFloat16(at + 2, true)];
      nibbles(at + 4, (i, q) => out[to + i] = f32(f32(d * q) + m), view);
    },
  },
  Q5_0: {
    count: 32,
    bytes: 22,
    decode: (view, at, out, to) => {
      const d = view.getFloat16(at, true);
      const high = view.getUint32(at + 2, true);
      nibbles(at + 6, (i, q) => out[to + i] = d * ((q | (((high >>> i) & 1) << 4)) - 16), view);
    },
  },
  Q5_1: {
    count: 32,
    bytes: 24,
    decode: (view, at, out, to) => {
      const [d, m] = [view.getFloat16(at, true), view.getFloat16(at + 2, true)];
      const high = view.getUint32(at + 4, true);
      nibbles(
        at + 8,
        (i, q) => out[to + i] = f32(f32(d * (q | (((high >>> i) & 1) << 4))) + m),
        view,
      );
    },
  },
  Q4_K: { count: 256, bytes: 144, decode: decodeK(0, 16) },
  Q5_K: { count: 256, bytes: 176, decode: decodeK(16, 48) },
  Q6_K: {
    count: 256,
    bytes: 210,
    decode: (view, at, out, to) => {
      const d = view.getFloat16(at + 208, true);
      for (let i = 0; i < 256; i++) {
        const [half, quarter, l] = [i >> 7, (i >> 5) & 3, i & 31];
        const low = view.getUint8(at + half * 64 + (quarter & 1) * 32 + l) >> (quarter >= 2 ? 4 : 0);
        const high = view.getUint8(at + 128 + half * 32 + l) >> (2 * quarter);
        const scale = view.getInt8(at + 192 + half * 8 + quarter * 2 + (l >> 4));
        out[to + i] = f32(f32(d * scale) * (((low & 0xf) | ((high & 3) << 4)) - 32));
      }
    },
  },
};

/** Types that can be read. */
export const GGML_TYPES: readonly string[] = Object.keys(TYPES);

/**
 * Bytes of a tensor's data.
 *
 * @param type Name of the type, such as `"Q8_0"`.
 * @param columns Elements of a row; a multiple of the type's block.
 * @param rows Rows.
 * @throws {ModelFileError} If the type cannot be read, or rows are not whole blocks.
 */
export function ggmlBytes(type: string, columns: number, rows: number): number {
  const { count, bytes } = typeOf(type);
  if (columns % count !== 0) {
    throw new ModelFileError(
      `Cannot read a tensor of type ${type} as its rows must be whole blocks of ${count}: they have ${columns} elements`,
    );
  }
  return columns / count * bytes * rows;
}

function typeOf(type: string): BlockType {
  const known = Object.hasOwn(TYPES, type) ? TYPES[type] : undefined;
  if (known === undefined) {
    throw new ModelFileError(
      `Cannot read the tensor as its type must be one of ${GGML_TYPES.join(", ")}: current value is ${type}`,
    );
  }
  return known;
}

/**
 * Elements and bytes of a type's block.
 *
 * @param type Name of the type.
 * @throws {ModelFileError} If the type cannot be read.
 */
export function ggmlBlock(type: string): { readonly elements: number; readonly bytes: number } {
  const { count, bytes } = typeOf(type);
  return { elements: count, bytes };
}

/**
 * Turns a tensor's data into float32.
 *
 * @param type Name of the type.
 * @param bytes The data: whole blocks.
 * @param into Where the values go, as many as the blocks hold. @default {a new array}
 * @returns `into`.
 * @throws {ModelFileError} If the type cannot be read, or the data are not whole blocks.
 * @throws {RangeError} If `into` has another length.
 */
export function dequantise(
  type: string,
  bytes: Uint8Array,
  into?: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  const { count, bytes: size, decode } = typeOf(type);
  if (bytes.length % size !== 0) {
    throw new ModelFileError(
      `Cannot read a tensor of type ${type} as its data must be whole blocks of ${size} bytes: there are ${bytes.length}`,
    );
  }
  const blocks = bytes.length / size;
  const out = into ?? new Float32Array(blocks * count);
  if (out.length !== blocks * count) {
    throw new RangeError(
      `Cannot dequantise as the values must go to an array of ${
        blocks * count
      }: current length is ${out.length}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let block = 0; block < blocks; block++) decode(view, block * size, out, block * count);
  return out;
}
