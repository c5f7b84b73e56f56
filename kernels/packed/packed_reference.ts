/**
 * What packed weights are worth: slow, readable, what the kernels are compared with.
 *
 * @module
 */

import type { PackedShape } from "./formats.ts";

/**
 * The f32 values that weights [rows, columns] have after packing.
 *
 * f16: the nearest half. int8 and int4: round(w / s) * s in f32, with s the largest magnitude of the group /
 * 127, or for int4 the weight of that magnitude / -8.
 */
export function packedReference(data: ArrayLike<number>, shape: PackedShape): Float32Array<ArrayBuffer> {
  const { format, rows, columns, groupsAlong } = shape;
  const out = new Float32Array(rows * columns);
  if (format === "f16") {
    for (let i = 0; i < out.length; i++) out[i] = Math.f16round(data[i]!);
    return out;
  }
  const size = format === "int8" ? 64 : 32;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      // All members of the group that (r, c) belongs to.
      const members: number[] = [];
      for (let i = 0; i < size; i++) {
        const [row, column] = groupsAlong === "columns"
          ? [r, Math.floor(c / size) * size + i]
          : [Math.floor(r / size) * size + i, c];
        if (row < rows && column < columns) members.push(data[row * columns + column]!);
      }
      const largest = members.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
      const scale = Math.fround(format === "int8" ? Math.abs(largest) / 127 : largest / -8);
      if (Math.abs(scale) < 2 ** -126) continue; // zero, as adapters see it
      const code = Math.round(data[r * columns + c]! / scale);
      out[r * columns + c] = scale * (format === "int8" ? code : Math.min(7, code));
    }
  }
  return out;
}
