/**
 * Layer norm and the column sums of its parameters' and of biases' gradients.
 *
 * @module
 */

import backwardSource from "./layer_norm_backward.wgsl" with { type: "text" };
import columnSumsSource from "./column_sums.wgsl" with { type: "text" };
import forwardSource from "./layer_norm.wgsl" with { type: "text" };
import { normBackward, type NormBackwardOptions } from "./norm_backward.ts";
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";
import { NORM_BACKWARD, ROW_ENTRIES, VEC4, WORKGROUP_SUM } from "../prelude/mod.ts";

const forwardKernel = defineRowKernel({
  name: "layer_norm",
  file: "layer_norm/layer_norm.wgsl",
  source: forwardSource,
  preludes: [WORKGROUP_SUM, VEC4],
  bindings: ["x", "gamma", "beta", "y", "statistics"],
  parameters: ["rows", "columns", "pitch4", "epsilon"],
});

const backwardKernels = [false, true].map((accumulate) =>
  defineRowKernel({
    name: accumulate ? "layer_norm_backward_accumulate" : "layer_norm_backward",
    file: "layer_norm/layer_norm_backward.wgsl",
    source: backwardSource,
    preludes: [NORM_BACKWARD, ...ROW_ENTRIES, VEC4],
    bindings: ["x", "gamma", "statistics", "dy", "dx"],
    parameters: ["rows", "columns", "pitch4"],
    constants: { ACCUMULATE: Number(accumulate) },
  })
);

const columnSumsKernels = [false, true].map((normalised) =>
  defineRowKernel({
    name: normalised ? "column_sums_normalised" : "column_sums",
    file: "layer_norm/column_sums.wgsl",
    source: columnSumsSource,
    preludes: [...ROW_ENTRIES],
    bindings: ["dy", "x", "statistics", "plain", "scaled"],
    parameters: ["rows", "pitch4"],
    constants: { NORMALISED: Number(normalised) },
  })
);

/** What layer norm's forward pass returns. */
export interface LayerNormResult {
  /** [rows, columns] */
  readonly y: Tensor;
  /** [rows, 2]: mean and reciprocal standard deviation of each row, for the backward pass. */
  readonly statistics: Tensor;
}

/**
 * y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, row by row.
 *
 * @param x [rows, columns]
 * @param gamma [1, columns]
 * @param beta [1, columns]
 * @param epsilon Added to the variance.
 */
export function layerNorm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: number): LayerNormResult {
  const { engine, rows, columns, pitch } = x;
  requireRow("gamma", gamma, columns);
  requireRow("beta", beta, columns);
  const y = engine.tensor(rows, columns, "layer norm");
  const statistics = engine.tensor(rows, 2, "layer norm statistics");
  engine.dispatch(forwardKernel[engine.adapterClass], {
    bindings: { x, gamma, beta, y, statistics },
    parameters: { rows, columns, pitch4: pitch / 4, epsilon },
    workgroups: [Math.ceil(rows / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
  return { y, statistics };
}

/** Gradient of layer norm's input, [rows, columns]. */
export function layerNormBackward(options: NormBackwardOptions): Tensor {
  return normBackward(backwardKernels, options, "layer norm dx");
}

/**
 * Gradients of layer norm's parameters, added to `dgamma` and `dbeta`, [1, columns].
 */
export function layerNormParameterGradients(
  options: { x: Tensor; statistics: Tensor; dy: Tensor; dgamma: Tensor; dbeta: Tensor },
): void {
  const { x, statistics, dy, dgamma, dbeta } = options;
  const { engine, rows, pitch } = dy;
  engine.dispatch(columnSumsKernels[1]![engine.adapterClass], {
    bindings: { dy, x, statistics, plain: dbeta, scaled: dgamma },
    parameters: { rows, pitch4: pitch / 4 },
    workgroups: [Math.ceil(pitch / 4 / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
}

/**
 * Sums over the rows of `dy` [rows, columns], added to `sum` [1, columns]: a bias's gradient.
 */
export function addColumnSums(dy: Tensor, sum: Tensor): void {
  const { engine, rows, pitch } = dy;
  requireRow("sum", sum, dy.columns);
  engine.dispatch(columnSumsKernels[0]![engine.adapterClass], {
    bindings: {
      dy,
      x: engine.nullInput,
      statistics: engine.nullInput,
      plain: sum,
      scaled: engine.nullOutput,
    },
    parameters: { rows, pitch4: pitch / 4 },
    workgroups: [Math.ceil(pitch / 4 / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
}

function requireRow(name: string, row: Tensor, columns: number): void {
  if (row.rows !== 1 || row.columns !== columns) {
    throw new TypeError(
      `Cannot normalise as "${name}" must be [1, ${columns}]: it is [${row.rows}, ${row.columns}]`,
    );
  }
}
