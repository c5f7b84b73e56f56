/**
 * Matrix products in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

import type { BatchLayout } from "./options.ts";

/** gelu as GPT-2 has it: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). */
export function geluReference(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** Derivative of gelu. */
export function geluGradientReference(x: number): number {
  const c = Math.sqrt(2 / Math.PI);
  const tanh = Math.tanh(c * (x + 0.044715 * x ** 3));
  return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * c * (1 + 3 * 0.044715 * x * x);
}

/** Arguments of `matmulReference`; epilogues apply in the order listed. */
export interface MatmulReferenceOptions {
  /** Rows of op(A). */
  readonly m: number;
  /** Columns of op(B). */
  readonly n: number;
  /** Inner length. */
  readonly k: number;
  /** A is stored [k, m]. @default {false} */
  readonly transposeA?: boolean;
  /** B is stored [n, k]. @default {false} */
  readonly transposeB?: boolean;
  /** Scale of the product. @default {1} */
  readonly alpha?: number;
  /** [n], added to every row. */
  readonly bias?: ArrayLike<number> | undefined;
  /** C = gelu(sum). @default {false} */
  readonly gelu?: boolean;
  /** [m, n], added. */
  readonly residual?: ArrayLike<number> | undefined;
  /** [m, n]: multiplied by gelu'(this). */
  readonly geluGradOf?: ArrayLike<number> | undefined;
  /** [m, n]: C before, added. */
  readonly before?: ArrayLike<number> | undefined;
}

/** Result of `matmulReference`. */
export interface MatmulReferenceResult {
  /** C, [m, n]. */
  readonly c: Float64Array;
  /** alpha * op(A) op(B) + bias, [m, n]. */
  readonly sum: Float64Array;
}

/** C [m, n] = epilogue(alpha * op(A) [m, k] op(B) [k, n]). */
export function matmulReference(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  options: MatmulReferenceOptions,
): MatmulReferenceResult {
  const { m, n, k, transposeA = false, transposeB = false, alpha = 1 } = options;
  const c = new Float64Array(m * n);
  const sums = new Float64Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let column = 0; column < n; column++) {
      let product = 0;
      for (let i = 0; i < k; i++) {
        product += a[transposeA ? i * m + row : row * k + i]! *
          b[transposeB ? column * k + i : i * n + column]!;
      }
      const at = row * n + column;
      const sum = alpha * product + (options.bias?.[column] ?? 0);
      let value = options.gelu ? geluReference(sum) : sum;
      value += options.residual?.[at] ?? 0;
      if (options.geluGradOf !== undefined) value *= geluGradientReference(options.geluGradOf[at]!);
      value += options.before?.[at] ?? 0;
      sums[at] = sum;
      c[at] = value;
    }
  }
  return { c, sum: sums };
}

/** A stored matrix of a batched product. */
export interface StoredMatrix {
  /** Row-major values. */
  readonly data: ArrayLike<number>;
  /** Elements from one row to the next. */
  readonly columns: number;
}

/** Options of `batchedMatmulReference`. */
export interface BatchedMatmulReferenceOptions extends BatchLayout {
  /** A is stored [k, m] in each group. @default {false} */
  readonly transposeA?: boolean;
  /** B is stored [n, k] in each group. @default {false} */
  readonly transposeB?: boolean;
  /** Scale of the product. @default {1} */
  readonly alpha?: number;
}

/**
 * C = alpha * op(A) op(B) for every (group, head), written into `c`. Entries that no (group, head)
 * covers stay; the causal mode only says what a kernel may leave out.
 */
export function batchedMatmulReference(
  a: StoredMatrix,
  b: StoredMatrix,
  c: { data: Float64Array; columns: number },
  options: BatchedMatmulReferenceOptions,
): void {
  const { groups, heads, m, n, k, transposeA = false, transposeB = false, alpha = 1 } = options;
  const element = (x: StoredMatrix, row: number, column: number) => x.data[row * x.columns + column]!;
  for (let group = 0; group < groups; group++) {
    for (let head = 0; head < heads; head++) {
      const aColumn = options.a.first + head * options.a.stride;
      const bColumn = options.b.first + head * options.b.stride;
      const cColumn = options.c.first + head * options.c.stride;
      for (let row = 0; row < m; row++) {
        for (let column = 0; column < n; column++) {
          let sum = 0;
          for (let i = 0; i < k; i++) {
            sum += (transposeA
              ? element(a, group * k + i, aColumn + row)
              : element(a, group * m + row, aColumn + i)) *
              (transposeB
                ? element(b, group * n + column, bColumn + i)
                : element(b, group * k + i, bColumn + column));
          }
          c.data[(group * m + row) * c.columns + cColumn + column] = alpha * sum;
        }
      }
    }
  }
}
