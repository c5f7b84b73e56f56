/**
 * What all matrix products share: flags of the epilogue, and how large matrices are cut to fit bindings.
 *
 * @module
 */

import type { Bindable } from "../engine/engine.ts";
import type { Tensor } from "../engine/tensor.ts";

/** Parts of an epilogue, as the kernels number them. */
export const FLAGS = { bias: 1, gelu: 2, residual: 4, geluGrad: 8, accumulate: 16, partial: 32 } as const;

/** Some of a matrix's rows, or of the inner length. */
export interface Segment {
  /** The first one. */
  readonly start: number;
  /** How many. */
  readonly length: number;
}

/** Cuts 0 .. total so that no piece, moved by the offset, crosses a multiple of the size. */
export function segments(total: number, ...cuts: { size: number; offset?: number }[]): Segment[] {
  const all: Segment[] = [];
  for (let start = 0; start < total;) {
    const ends = cuts.map(({ size, offset = 0 }) =>
      (Math.floor((start + offset) / size) + 1) * size - offset
    );
    const end = Math.min(total, ...ends);
    all.push({ start, length: end - start });
    start = end;
  }
  return all;
}

/** Rows of a tensor that one binding holds, as `Tensor.windows` cuts them; `Infinity` if it fits whole. */
export function rowsPerBuffer(tensor: Tensor): number {
  return tensor.bytes <= tensor.engine.maxBindingBytes ? Infinity : tensor.windows()[0]!.rows;
}

/** Some rows of a result, or of what has its shape, and where the first one lies in what is bound. */
export function bindResult(tensor: Tensor, { start, length }: Segment): [Bindable, number] {
  if (tensor.bytes <= tensor.engine.maxBindingBytes) return [tensor, start];
  return [tensor.windows(start, length)[0]!, 0];
}

/** @throws {TypeError} If a tensor is there and has another shape. */
export function requireShape(name: string, tensor: Tensor | undefined, rows: number, columns: number): void {
  if (tensor === undefined || (tensor.rows === rows && tensor.columns === columns)) return;
  throw new TypeError(
    `Cannot multiply as ${name} "${tensor.label}" must be [${rows}, ${columns}]: it is [${tensor.rows}, ${tensor.columns}]`,
  );
}
