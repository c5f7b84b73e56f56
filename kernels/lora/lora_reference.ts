/**
 * Products of LoRA head modules in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

import type { ArenaMatrix } from "./lora.ts";

/** Where element (row, column) of a head's matrix lies in an arena. */
export function arenaIndex(
  { first, segment, columns }: ArenaMatrix,
  head: number,
  row: number,
  column: number,
): number {
  const pitch = Math.ceil(columns / 4) * 4;
  return first + head * segment + row * pitch + column;
}

/** Arguments of `headProductReference`. */
export interface HeadProductReferenceOptions {
  /** [slots * T, k], or [T, k] if `sharedInput`. */
  readonly x: ArrayLike<number>;
  /** Matrices of all heads, stored [k, n], or [n, k] if `transpose`. */
  readonly arena: ArrayLike<number>;
  /** Which matrix. */
  readonly matrix: ArenaMatrix;
  /** Head of each slot. */
  readonly heads: ArrayLike<number>;
  /** T */
  readonly length: number;
  /** The matrix is stored [n, k]. */
  readonly transpose: boolean;
  /** Every slot reads the same x. */
  readonly sharedInput: boolean;
  /** One result, the sum over the slots. */
  readonly sumOverHeads: boolean;
  /** Scale. */
  readonly alpha: number;
}

/** y_z = alpha * x_z op(W_h), [slots * T, n], or [T, n] if `sumOverHeads`. */
export function headProductReference(options: HeadProductReferenceOptions): Float64Array {
  const { x, arena, matrix, heads, length, transpose, sharedInput, sumOverHeads, alpha } = options;
  const n = transpose ? matrix.rows : matrix.columns;
  const k = transpose ? matrix.columns : matrix.rows;
  const y = new Float64Array((sumOverHeads ? 1 : heads.length) * length * n);
  for (let slot = 0; slot < heads.length; slot++) {
    for (let t = 0; t < length; t++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let i = 0; i < k; i++) {
          const [row, column] = transpose ? [j, i] : [i, j];
          sum += x[((sharedInput ? 0 : slot * length) + t) * k + i]! *
            arena[arenaIndex(matrix, heads[slot]!, row, column)]!;
        }
        y[((sumOverHeads ? 0 : slot * length) + t) * n + j]! += alpha * sum;
      }
    }
  }
  return y;
}

/** Arguments of `headGradientReference`. */
export interface HeadGradientReferenceOptions {
  /** [slots * T, m] */
  readonly a: ArrayLike<number>;
  /** [slots * T, n], or [T, n] if `sharedB`. */
  readonly b: ArrayLike<number>;
  /** Gradients of all heads, the listed ones overwritten. */
  readonly arena: Float64Array;
  /** Which matrix, [m, n]. */
  readonly matrix: ArenaMatrix;
  /** Head of each slot. */
  readonly heads: ArrayLike<number>;
  /** T */
  readonly length: number;
  /** Every slot reads the same b. */
  readonly sharedB: boolean;
  /** Scale. */
  readonly alpha: number;
}

/** dW_h = alpha * a_z^T b_z for every slot z, written into the arena; padding becomes zero. */
export function headGradientReference(options: HeadGradientReferenceOptions): void {
  const { a, b, arena, matrix, heads, length, sharedB, alpha } = options;
  const { rows: m, columns: n } = matrix;
  for (let slot = 0; slot < heads.length; slot++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < Math.ceil(n / 4) * 4; j++) {
        let sum = 0;
        for (let t = 0; t < length; t++) {
          sum += a[(slot * length + t) * m + i]! *
            (j < n ? b[((sharedB ? 0 : slot * length) + t) * n + j]! : 0);
        }
        arena[arenaIndex(matrix, heads[slot]!, i, j)] = alpha * sum;
      }
    }
  }
}

/** Which columns of a wide matrix are meant, see `HeadColumnsOptions`. */
export interface HeadColumnsReference {
  /** Columns of the matrix. */
  readonly columns: number;
  /** Column of head 0. */
  readonly first: number;
  /** Columns per head. */
  readonly headSize: number;
  /** The head of each slot. */
  readonly heads: ArrayLike<number>;
}

/** Columns first + h * headSize .. of wide [T, columns] for each head h, head-major: [slots * T, headSize]. */
export function gatherHeadColumnsReference(
  wide: ArrayLike<number>,
  { columns, first, headSize, heads }: HeadColumnsReference,
): Float64Array {
  const length = wide.length / columns;
  const blocks = new Float64Array(heads.length * length * headSize);
  for (let slot = 0; slot < heads.length; slot++) {
    for (let t = 0; t < length; t++) {
      for (let i = 0; i < headSize; i++) {
        blocks[(slot * length + t) * headSize + i] = wide[t * columns + first + heads[slot]! * headSize + i]!;
      }
    }
  }
  return blocks;
}

/** Adds blocks [slots * T, headSize] to the same columns of wide [T, columns], in place; 0xffffffff = no head. */
export function scatterAddHeadColumnsReference(
  blocks: ArrayLike<number>,
  wide: Float64Array,
  { columns, first, headSize, heads }: HeadColumnsReference,
): void {
  const length = wide.length / columns;
  for (let slot = 0; slot < heads.length; slot++) {
    if (heads[slot] === 0xffff_ffff) continue;
    for (let t = 0; t < length; t++) {
      for (let i = 0; i < headSize; i++) {
        wide[t * columns + first + heads[slot]! * headSize + i]! +=
          blocks[(slot * length + t) * headSize + i]!;
      }
    }
  }
}
