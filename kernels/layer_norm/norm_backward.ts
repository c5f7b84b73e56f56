/**
 * What the gradients of layer norm and RMS norm have in common: they take the same arguments.
 *
 * @module
 */

import type { AdapterClass } from "../engine/adapter.ts";
import type { Kernel } from "../engine/kernel.ts";
import { ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";

/** Arguments of `layerNormBackward` and `rmsNormBackward`. */
export interface NormBackwardOptions {
  /** Input of the forward pass, [rows, columns]. */
  readonly x: Tensor;
  /** [1, columns] */
  readonly gamma: Tensor;
  /** From the forward pass: [rows, 2] of layer norm, [rows, 1] of RMS norm. */
  readonly statistics: Tensor;
  /** [rows, columns] */
  readonly dy: Tensor;
  /** [rows, columns], overwritten or added to. @default {a new tensor} */
  readonly dx?: Tensor | undefined;
  /** Add to `dx` instead of overwriting it. @default {false} */
  readonly accumulate?: boolean;
}

/** A norm's kernel by adapter class. */
export type NormBackwardKernel = Record<
  AdapterClass,
  Kernel<"rows" | "columns" | "pitch4", "x" | "gamma" | "statistics" | "dy" | "dx">
>;

/**
 * Gradient of a norm's input.
 *
 * @param kernels Overwriting, and adding.
 * @param label Of a new result.
 */
export function normBackward(
  [overwrite, add]: readonly NormBackwardKernel[],
  options: NormBackwardOptions,
  label: string,
): Tensor {
  const { x, gamma, statistics, dy, accumulate = false } = options;
  const { engine, rows, columns, pitch } = x;
  const dx = options.dx ?? engine.tensor(rows, columns, label);
  engine.dispatch((accumulate ? add! : overwrite!)[engine.adapterClass], {
    bindings: { x, gamma, statistics, dy, dx },
    parameters: { rows, columns, pitch4: pitch / 4 },
    workgroups: [Math.ceil(rows / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
  return dx;
}
