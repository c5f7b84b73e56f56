/**
 * RMS norm (Zhang and Sennrich, 2019): layer norm without mean and offset.
 *
 * The gain has no gradient here: models that use RMS norm are trained with a frozen base.
 *
 * @module
 */

import backwardSource from "./rms_norm_backward.wgsl" with { type: "text" };
import forwardSource from "./rms_norm.wgsl" with { type: "text" };
import { normBackward, type NormBackwardOptions } from "../layer_norm/norm_backward.ts";
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";
import { NORM_BACKWARD, ROW_ENTRIES, VEC4 } from "../prelude/mod.ts";

const forwardKernel = defineRowKernel({
  name: "rms_norm",
  file: "rms_norm/rms_norm.wgsl",
  source: forwardSource,
  preludes: [...ROW_ENTRIES, VEC4],
  bindings: ["x", "gamma", "y", "statistics"],
  parameters: ["rows", "columns", "pitch4", "epsilon"],
});

const backwardKernels = [false, true].map((accumulate) =>
  defineRowKernel({
    name: accumulate ? "rms_norm_backward_accumulate" : "rms_norm_backward",
    file: "rms_norm/rms_norm_backward.wgsl",
    source: backwardSource,
    preludes: [NORM_BACKWARD, ...ROW_ENTRIES, VEC4],
    bindings: ["x", "gamma", "statistics", "dy", "dx"],
    parameters: ["rows", "columns", "pitch4"],
    constants: { ACCUMULATE: Number(accumulate) },
  })
);

/** What RMS norm's forward pass returns. */
export interface RmsNormResult {
  /** [rows, columns] */
  readonly y: Tensor;
  /** [rows, 1]: reciprocal root mean square of each row, for the backward pass. */
  readonly statistics: Tensor;
}

/**
 * y = x / sqrt(mean(x^2) + epsilon) * gamma, row by row.
 *
 * @param x [rows, columns]
 * @param gamma [1, columns]
 * @param epsilon Added to the mean square.
 * @throws {TypeError} If `gamma` has another length.
 */
export function rmsNorm(x: Tensor, gamma: Tensor, epsilon: number): RmsNormResult {
  const { engine, rows, columns, pitch } = x;
  if (gamma.rows !== 1 || gamma.columns !== columns) {
    throw new TypeError(
      `Cannot normalise as "gamma" must be [1, ${columns}]: it is [${gamma.rows}, ${gamma.columns}]`,
    );
  }
  const y = engine.tensor(rows, columns, "rms norm");
  const statistics = engine.tensor(rows, 1, "rms norm statistics");
  engine.dispatch(forwardKernel[engine.adapterClass], {
    bindings: { x, gamma, y, statistics },
    parameters: { rows, columns, pitch4: pitch / 4, epsilon },
    workgroups: [Math.ceil(rows / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
  return { y, statistics };
}

/** Gradient of RMS norm's input, [rows, columns]. */
export function rmsNormBackward(options: NormBackwardOptions): Tensor {
  return normBackward(backwardKernels, options, "rms norm dx");
}
