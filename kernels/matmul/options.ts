/**
 * Options of matrix products, and the checks that all of them share.
 *
 * @module
 */

import type { Tensor } from "../engine/tensor.ts";

/** Which triangle of a causal attention matrix a batched product may leave out. */
export type Causal = "none" | "skipUpper" | "innerBelow" | "innerAbove";

/** How a batched product finds its matrices inside larger ones: element (group, head) of each operand. */
export interface BatchLayout {
  /** Number of row groups (sequences of a batch). */
  readonly groups: number;
  /** Number of heads. */
  readonly heads: number;
  /** Rows of op(A) in one (group, head). */
  readonly m: number;
  /** Columns of op(B) in one (group, head). */
  readonly n: number;
  /** Inner length in one (group, head). */
  readonly k: number;
  /** First column of head 0 and columns from one head to the next, in the stored A; multiples of 4. */
  readonly a: HeadColumns;
  /** As `a`, in the stored B. */
  readonly b: HeadColumns;
  /** As `a`, in C. */
  readonly c: HeadColumns;
  /** Which part of the product is known to be zero or not needed. @default {"none"} */
  readonly causal?: Causal;
}

/** Where a head's columns lie. */
export interface HeadColumns {
  /** First column of head 0. */
  readonly first: number;
  /** Columns from one head to the next. */
  readonly stride: number;
  /** First row of group 0. @default {0} */
  readonly row?: number;
}

/** Options of `matmul`. C = epilogue(alpha * op(A) op(B)); epilogues apply in the order listed. */
export interface MatmulOptions {
  /** A is stored [k, m]. @default {false} */
  readonly transposeA?: boolean;
  /** B is stored [n, k]. @default {false} */
  readonly transposeB?: boolean;
  /** Scale of the product. @default {1} */
  readonly alpha?: number;
  /** [1, n], added to every row. */
  readonly bias?: Tensor | undefined;
  /** C = gelu(sum); the sum itself is written here, [m, n], for the backward pass. */
  readonly geluInput?: Tensor | undefined;
  /** [m, n], added. */
  readonly residual?: Tensor | undefined;
  /** [m, n]: C is multiplied by gelu'(this). */
  readonly geluGradOf?: Tensor | undefined;
  /** C += instead of C =. Needs `out`. @default {false} */
  readonly accumulate?: boolean;
  /** Where the result goes. @default {a new tensor} */
  readonly out?: Tensor | undefined;
  /** Only these rows of the stored B take part. @default {all} */
  readonly rowsOfB?: { readonly first: number; readonly rows: number } | undefined;
  /** Batched product. Needs `out`. */
  readonly batch?: BatchLayout | undefined;
}

/** m, n and k of a product C [m, n] = op(A) [m, k] op(B) [k, n]. */
export type ProductShape = readonly [number, number, number];

/** The one tensor beside bias that an epilogue reads or writes. */
export function auxiliaryOf({ geluInput, residual, geluGradOf }: MatmulOptions): Tensor | undefined {
  return geluInput ?? residual ?? geluGradOf;
}

function auxiliaries({ geluInput, residual, geluGradOf }: MatmulOptions): Tensor[] {
  return [geluInput, residual, geluGradOf].filter((t) => t !== undefined);
}

/**
 * Checks what epilogues ask for.
 *
 * @throws {TypeError} If options exclude each other or need another one.
 */
export function requireEpilogue(options: MatmulOptions): void {
  const aux = auxiliaries(options);
  if (aux.length > 1) {
    throw new TypeError(
      `Cannot multiply as at most one of geluInput, residual and geluGradOf may be given: ${aux.length} are`,
    );
  }
  if (options.out === undefined && (options.batch !== undefined || options.accumulate)) {
    throw new TypeError(`Cannot multiply as a batched or accumulated product needs "out": it is missing`);
  }
}

/**
 * Checks that no tensor is written and bound a second time: writable bindings may not overlap others. (They would not
 * on software adapters, which read copies.)
 *
 * @param options Options of the product.
 * @param operands Tensors that are read.
 * @throws {TypeError} If a tensor is used twice.
 */
export function requireDistinct(options: MatmulOptions, operands: readonly Tensor[]): void {
  const { out, bias } = options;
  const aux = auxiliaries(options);
  for (const written of [out, ...aux]) {
    if (written !== undefined && [...operands, bias, out, ...aux].filter((t) => t === written).length > 1) {
      throw new TypeError(
        `Cannot multiply as "out" and tensors of epilogues must not be used twice: "${written.label}" is`,
      );
    }
  }
}

/**
 * Checks the shapes of a product's result and epilogue.
 *
 * @throws {TypeError} If one has another shape.
 */
export function requireResultShapes(options: MatmulOptions, [m, n]: ProductShape): void {
  requireShape("out", options.out, m, n);
  requireShape("bias", options.bias, 1, n);
  requireShape("geluInput", options.geluInput, m, n);
  requireShape("residual", options.residual, m, n);
  requireShape("geluGradOf", options.geluGradOf, m, n);
}

function requireShape(name: string, tensor: Tensor | undefined, rows: number, columns: number): void {
  if (tensor === undefined || (tensor.rows === rows && tensor.columns === columns)) return;
  throw new TypeError(
    `Cannot multiply as ${name} "${tensor.label}" must be [${rows}, ${columns}]: it is [${tensor.rows}, ${tensor.columns}]`,
  );
}
