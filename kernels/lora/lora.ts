/**
 * LoRA head modules: products with many small matrices at once, and moving heads' columns.
 *
 * T = tokens, n = kept heads ("slots"), r = rank. The matrices of all head modules lie in one
 * **arena** [1, size]: head h's start at `first + h * segment`, rows padded to four elements.
 *
 * @module
 */

import columnsSource from "./head_columns.wgsl" with { type: "text" };
import gradientSource from "./head_gradient.wgsl" with { type: "text" };
import productSource from "./head_product.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";

const productKernels = [false, true].map((transpose) =>
  defineKernel({
    name: `head_product_${transpose ? "t" : "n"}`,
    file: "lora/head_product.wgsl",
    source: productSource,
    bindings: ["x", "weights", "heads", "y"],
    parameters: [
      "m",
      "n4",
      "k4",
      "slots",
      "x_row",
      "y_row",
      "x_slot_rows",
      "y_slot_rows",
      "weight_first4",
      "segment4",
      "accumulate",
      "alpha",
    ],
    constants: { TRANSPOSE: Number(transpose) },
  })
);

const gradientKernel = defineKernel({
  name: "head_gradient",
  file: "lora/head_gradient.wgsl",
  source: gradientSource,
  bindings: ["a", "b", "heads", "gradients"],
  parameters: [
    "m4",
    "n4",
    "length",
    "b_row",
    "a_slot_rows",
    "b_slot_rows",
    "first4",
    "segment4",
    "m",
    "accumulate",
    "alpha",
  ],
});

const columnKernels = [false, true].map((scatter) =>
  defineKernel({
    name: scatter ? "head_columns_scatter" : "head_columns_gather",
    file: "lora/head_columns.wgsl",
    source: columnsSource,
    bindings: ["wide", "heads", "blocks"],
    parameters: ["length", "head_size4", "first4", "pitch4"],
    constants: { SCATTER: Number(scatter) },
  })
);

/** Where one matrix of every head module lies in an arena. */
export interface ArenaMatrix {
  /** Rows of the matrix as stored. */
  readonly rows: number;
  /** Columns of the matrix as stored; padded to a multiple of four in the arena. */
  readonly columns: number;
  /** Element at which head 0's matrix starts; a multiple of 4. */
  readonly first: number;
  /** Elements from one head's matrix to the next head's; a multiple of 4. */
  readonly segment: number;
}

/** Arguments of `headProduct`. */
export interface HeadProductOptions {
  /** [n * T, k] head-major, or [T, k] read by every head if `sharedInput`. */
  readonly x: Tensor;
  /** The parameters of all head modules, [1, size]. */
  readonly arena: Tensor;
  /** Which matrix of each head module: stored [k, n], or [n, k] if `transpose`. */
  readonly matrix: ArenaMatrix;
  /** [1, slots], u32: the head of each slot. */
  readonly heads: Tensor;
  /** The matrix is stored [n, k]. @default {false} */
  readonly transpose?: boolean;
  /** Every head reads the same x. @default {false} */
  readonly sharedInput?: boolean;
  /** Rows of x that take part. @default {all} */
  readonly rows?: number;
  /** First row of x that takes part. @default {0} */
  readonly rowOfX?: number;
  /** First row of `out` that is written. @default {0} */
  readonly rowOfOut?: number;
  /** The heads' results are summed into one [T, n]. @default {false} */
  readonly sumOverHeads?: boolean;
  /** Scale. @default {1} */
  readonly alpha?: number;
  /** Add to `out`. @default {false} */
  readonly accumulate?: boolean;
  /** [n * T, columns], or [T, columns] if `sumOverHeads`. @default {a new tensor} */
  readonly out?: Tensor | undefined;
}

/** y_z = alpha * x_z op(W_h) for every slot z, h = heads[z]. */
export function headProduct(options: HeadProductOptions): Tensor {
  const { x, arena, matrix, heads, transpose = false, sharedInput = false, sumOverHeads = false } = options;
  const { engine } = x;
  const slots = heads.columns;
  const { rowOfX = 0, rowOfOut = 0, rows = x.rows - rowOfX } = options;
  const length = sharedInput ? rows : rows / slots;
  const inner = transpose ? matrix.columns : matrix.rows;
  const columns = transpose ? matrix.rows : matrix.columns;
  if (x.pitch !== roundUp4(inner)) {
    throw new TypeError(
      `Cannot multiply head modules as x must have ${inner} columns: it has ${x.columns}`,
    );
  }
  // Rows of W past its end belong to the next matrix: only whole blocks of four are read.
  if (matrix.rows % 4 !== 0) {
    throw new TypeError(
      `Cannot multiply head modules as matrices must have a multiple of 4 rows: current value is ${matrix.rows}`,
    );
  }
  const written = sumOverHeads ? length : slots * length;
  const given = options.out;
  const fits = given === undefined ||
    (rowOfOut + written <= given.rows && given.pitch === roundUp4(columns));
  if (rowOfX + rows > x.rows || !fits) {
    throw new TypeError(
      `Cannot multiply head modules as rows ${rowOfX} to ${rowOfX + rows} of x and ${rowOfOut} to ${
        rowOfOut + written
      } of the result, of ${columns} columns, must be there: they are [${x.rows}, ${x.columns}] and [${
        given?.rows ?? rowOfOut + written
      }, ${given?.columns ?? columns}]`,
    );
  }
  const out = given ?? engine.tensor(rowOfOut + written, columns, "head product");
  engine.dispatch(productKernels[Number(transpose)]!, {
    bindings: { x, weights: arena, heads, y: out },
    parameters: {
      m: length,
      n4: roundUp4(columns) / 4,
      k4: roundUp4(inner) / 4,
      slots,
      x_row: rowOfX,
      y_row: rowOfOut,
      x_slot_rows: sharedInput ? 0 : length,
      y_slot_rows: sumOverHeads ? 0 : length,
      weight_first4: matrix.first / 4,
      segment4: matrix.segment / 4,
      accumulate: Number(options.accumulate ?? false),
      alpha: options.alpha ?? 1,
    },
    workgroups: [Math.ceil(length / 32), roundUp4(columns) / 4, sumOverHeads ? 1 : slots],
  });
  return out;
}

/** Arguments of `headGradient`. */
export interface HeadGradientOptions {
  /** [n * T, m] head-major. */
  readonly a: Tensor;
  /** [n * T, n] head-major, or [T, n] if `sharedB`. */
  readonly b: Tensor;
  /** [1, slots], u32: the head of each slot. */
  readonly heads: Tensor;
  /** Gradients of all head modules, [1, size]; the kept heads' are overwritten or added to. */
  readonly arena: Tensor;
  /** Which matrix of each head module, [m, n]. */
  readonly matrix: ArenaMatrix;
  /** T, rows that are summed for each slot. */
  readonly length: number;
  /** First row of b that takes part. @default {0} */
  readonly rowOfB?: number;
  /** Every slot reads the same `b`. @default {false} */
  readonly sharedB?: boolean;
  /** Scale. @default {1} */
  readonly alpha?: number;
  /** Add to the gradients. @default {false} */
  readonly accumulate?: boolean;
}

/** dW_h = alpha * a_z^T b_z for every slot z, h = heads[z]. */
export function headGradient(options: HeadGradientOptions): void {
  const { a, b, heads, arena, matrix, length, sharedB = false } = options;
  const m4 = a.pitch / 4;
  const n4 = b.pitch / 4;
  a.engine.dispatch(gradientKernel, {
    bindings: { a, b, heads, gradients: arena },
    parameters: {
      m4,
      n4,
      length,
      b_row: options.rowOfB ?? 0,
      a_slot_rows: length,
      b_slot_rows: sharedB ? 0 : length,
      first4: matrix.first / 4,
      segment4: matrix.segment / 4,
      m: matrix.rows,
      accumulate: Number(options.accumulate ?? false),
      alpha: options.alpha ?? 1,
    },
    workgroups: [Math.ceil(m4 * n4 / 8), heads.columns],
  });
}

function moveColumns(
  kernel: typeof columnKernels[number],
  wide: Tensor,
  blocks: Tensor,
  { first, headSize, heads }: HeadColumnsOptions,
): void {
  const slots = heads.columns;
  const length = wide.rows;
  if (headSize % 4 !== 0 || first % 4 !== 0) {
    throw new TypeError(
      `Cannot move head columns as head size and first column must be multiples of 4: they are ${headSize} and ${first}`,
    );
  }
  if (blocks.rows !== slots * length || blocks.pitch !== headSize) {
    throw new TypeError(
      `Cannot move head columns as blocks must be [${
        slots * length
      }, ${headSize}]: they are [${blocks.rows}, ${blocks.columns}]`,
    );
  }
  wide.engine.dispatch(kernel, {
    bindings: { wide, heads, blocks },
    parameters: { length, head_size4: headSize / 4, first4: first / 4, pitch4: wide.pitch / 4 },
    workgroups: [Math.ceil(headSize / 32), Math.ceil(length / 8), slots],
  });
}

/** Which columns of a wide matrix are meant. */
export interface HeadColumnsOptions {
  /** Column of head 0. */
  readonly first: number;
  /** Columns per head; a multiple of 4. */
  readonly headSize: number;
  /** [1, slots], u32: the head of each slot. */
  readonly heads: Tensor;
}

/** As `HeadColumnsOptions`, for blocks that are made. */
export interface GatheredColumnsOptions extends HeadColumnsOptions {
  /** Columns of the blocks, if the last ones of each head are padding. @default {headSize} */
  readonly columns?: number;
}

/** Copies some heads' columns of `wide` [T, pitch] to head-major blocks [slots * T, headSize]. */
export function gatherHeadColumns(wide: Tensor, options: GatheredColumnsOptions): Tensor {
  const { headSize, heads, columns = headSize } = options;
  const blocks = wide.engine.tensor(heads.columns * wide.rows, columns, "head blocks");
  moveColumns(columnKernels[0]!, wide, blocks, options);
  return blocks;
}

/**
 * Adds head-major blocks [slots * T, headSize] to some heads' columns of `wide` [T, pitch]. A head may
 * not be listed twice; slots listed as 0xffffffff are left out.
 */
export function scatterAddHeadColumns(blocks: Tensor, wide: Tensor, options: HeadColumnsOptions): void {
  moveColumns(columnKernels[1]!, wide, blocks, options);
}
