/**
 * How frozen weights are packed: formats, their sizes, and the packing itself, on the host.
 *
 * - `f16`: two IEEE halves in a word, rounded to nearest even.
 * - `int8`: four codes of -127 .. 127 in a word, one f32 scale for 64 weights: the largest magnitude / 127.
 * - `int4`: eight codes of -8 .. 7 in a word, one f32 scale for 32 weights, which may be negative: the
 *   weight of the largest magnitude has code -8. No zero point.
 *
 * The weight that counts is code * scale in f32. Codes of neighbouring columns share a word, the first one in
 * its lowest bits; a row's words are padded with zeros.
 *
 * @module
 */

import { roundUp4 } from "../engine/tensor.ts";
import { exactSize } from "../engine/pool.ts";

/** Formats of packed weights. */
export type PackedFormat = "f16" | "int8" | "int4";

/** Which weights share a scale: neighbours in a row (`columns`) or in a column (`rows`). */
export type GroupsAlong = "columns" | "rows";

/** Shape and format of a packed matrix. */
export interface PackedShape {
  /** Format of the weights. */
  readonly format: PackedFormat;
  /** Rows as stored. */
  readonly rows: number;
  /** Columns as stored. */
  readonly columns: number;
  /** Direction of the groups. */
  readonly groupsAlong: GroupsAlong;
}

/** What the formats are. */
export const PACKED_FORMATS: Readonly<
  Record<PackedFormat, {
    /** Weights in a word of 32 bits. */
    readonly perWord: number;
    /** Weights that share a scale; 0 where there are no scales. */
    readonly group: number;
    /** Number of the format in kernels. */
    readonly code: number;
  }>
> = {
  f16: { perWord: 2, group: 0, code: 0 },
  int8: { perWord: 4, group: 64, code: 1 },
  int4: { perWord: 8, group: 32, code: 2 },
};

/** Largest half. */
const F16_MAX = 65_504;
/** Smallest f32 that adapters may not take for zero. */
const F32_LEAST = 2 ** -126;

/** Shapes of the two tensors of a packed matrix: words and scales, if there are any. */
export function packedTensors(
  { format, rows, columns, groupsAlong }: PackedShape,
): { readonly words: readonly [number, number]; readonly scales: readonly [number, number] | null } {
  const { perWord, group } = PACKED_FORMATS[format];
  const words = [rows, Math.ceil(columns / perWord)] as const;
  if (group === 0) return { words, scales: null };
  const scales = groupsAlong === "columns"
    ? [rows, Math.ceil(columns / group)] as const
    : [Math.ceil(rows / group), columns] as const;
  return { words, scales };
}

/** Bytes of adapter memory that tensors of some shapes take in buffers of their own size. */
function exactBytes([rows, columns]: readonly [number, number]): number {
  return exactSize(rows * roundUp4(columns) * 4);
}

/** Bytes of adapter memory that a matrix of weights takes in a format; `f32` is a plain tensor. */
export function weightBytes(shape: Omit<PackedShape, "format"> & { format: PackedFormat | "f32" }): number {
  const { format, rows, columns } = shape;
  if (format === "f32") return exactBytes([rows, columns]);
  const { words, scales } = packedTensors({ ...shape, format });
  return exactBytes(words) + (scales === null ? 0 : exactBytes(scales));
}

/** Some packed rows. */
export interface PackedRows {
  /** [rows, words of a row] */
  readonly words: Uint32Array<ArrayBuffer>;
  /** As `packedTensors` says, for these rows; `null` where there are none. */
  readonly scales: Float32Array<ArrayBuffer> | null;
}

/** Room for so many rows, to be used again and again. */
export function packedRoom(shape: PackedShape, rows: number): PackedRows {
  const { words, scales } = packedTensors({ ...shape, rows });
  return {
    words: new Uint32Array(words[0] * words[1]),
    scales: scales === null ? null : new Float32Array(scales[0] * scales[1]),
  };
}

/**
 * Packs some rows of a matrix.
 *
 * @param data Whole rows; with groups along the rows from the start of a group on.
 * @param shape Shape and format of the matrix.
 * @param name Of the matrix, for errors.
 * @param room Where they go: room for as many rows or more, of the same shape.
 * @returns The rows, in that room.
 * @throws {RangeError} If a weight is not finite, or too large for its format.
 */
export function packRows(
  data: Float32Array,
  shape: PackedShape,
  name: string,
  room: PackedRows,
): PackedRows {
  const { format, columns } = shape;
  const rows = data.length / columns;
  const sizes = packedTensors({ ...shape, rows });
  const words = room.words.subarray(0, sizes.words[0] * sizes.words[1]);
  requireRange(data, format, name);
  if (format === "f16") {
    const halves = new Float16Array(words.buffer, words.byteOffset, words.length * 2);
    if (columns % 2 === 0) halves.set(data);
    else {
      for (let r = 0; r < rows; r++) {
        halves.set(data.subarray(r * columns, (r + 1) * columns), r * (columns + 1));
      }
    }
    return { words, scales: null };
  }
  const part = { ...shape, rows, format };
  const scales = room.scales!.subarray(0, sizes.scales![0] * sizes.scales![1]);
  findScales(data, part, scales);
  packCodes(data, scales, part, words);
  return { words, scales };
}

function requireRange(data: Float32Array, format: PackedFormat, name: string): void {
  const most = format === "f16" ? F16_MAX : Number.MAX_VALUE;
  // Written so that NaN fails.
  for (let i = 0; i < data.length; i++) {
    if (Math.abs(data[i]!) <= most) continue;
    const rule = format === "f16" ? `from -${F16_MAX} to ${F16_MAX}` : "finite";
    throw new RangeError(
      `Cannot pack "${name}" as ${format} as its weights must be ${rule}: current value is ${data[i]}`,
    );
  }
}

type CodedShape = PackedShape & { readonly format: "int8" | "int4" };

/** The scale of every group. */
function findScales(data: Float32Array, shape: CodedShape, scales: Float32Array): void {
  const { rows, columns, format, groupsAlong } = shape;
  const { group } = PACKED_FORMATS[format];
  const [, width] = packedTensors(shape).scales!;
  // First the weight of the largest magnitude.
  scales.fill(0);
  for (let r = 0; r < rows; r++) {
    const from = r * columns;
    if (groupsAlong === "columns") {
      for (let g = 0; g < width; g++) {
        const end = Math.min(columns, (g + 1) * group);
        let largest = 0;
        for (let c = g * group; c < end; c++) {
          const value = data[from + c]!;
          if (Math.abs(value) > Math.abs(largest)) largest = value;
        }
        scales[r * width + g] = largest;
      }
    } else {
      const to = Math.floor(r / group) * width;
      for (let c = 0; c < columns; c++) {
        const value = data[from + c]!;
        if (Math.abs(value) > Math.abs(scales[to + c]!)) scales[to + c] = value;
      }
    }
  }
  for (let i = 0; i < scales.length; i++) {
    const scale = Math.fround(format === "int8" ? Math.abs(scales[i]!) / 127 : scales[i]! / -8);
    scales[i] = Math.abs(scale) < F32_LEAST ? 0 : scale;
  }
}

/** Rounds weights to codes and packs these: one a byte, or two. */
function packCodes(data: Float32Array, scales: Float32Array, shape: CodedShape, words: Uint32Array): void {
  const { rows, columns, format, groupsAlong } = shape;
  const { perWord, group } = PACKED_FORMATS[format];
  const [, width] = packedTensors(shape).scales!;
  const bytesPerRow = Math.ceil(columns / perWord) * 4;
  const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
  const along = groupsAlong === "columns";
  const codes = new Int8Array(columns + 1); // one more, so that the last has a neighbour
  for (let r = 0; r < rows; r++) {
    const from = r * columns;
    for (let c = 0; c < columns;) {
      // As many as share the scale, or one.
      const scale = scales[along ? r * width + c / group : Math.floor(r / group) * width + c]!;
      const end = along ? Math.min(columns, c + group) : c + 1;
      if (scale === 0) codes.fill(0, c, end);
      // Half steps up, and the extreme of the other sign within what four bits hold.
      else if (format === "int8") {
        for (let i = c; i < end; i++) codes[i] = Math.round(data[from + i]! / scale);
      } else for (let i = c; i < end; i++) codes[i] = Math.min(7, Math.round(data[from + i]! / scale));
      c = end;
    }
    const to = r * bytesPerRow;
    if (format === "int8") {
      for (let c = 0; c < columns; c++) bytes[to + c] = codes[c]!;
    } else {
      for (let c = 0; c < columns; c += 2) bytes[to + c / 2] = (codes[c]! & 15) | (codes[c + 1]! << 4);
    }
  }
}
