/**
 * RMS norm of each head's queries and keys (Qwen3, Gemma 3).
 *
 * T tokens, H heads of queries, G heads of keys and of values, D head size. The gains have no gradient here:
 * models that use it are trained with a frozen base.
 *
 * @module
 */

import backwardSource from "./head_norm_backward.wgsl" with { type: "text" };
import forwardSource from "./head_norm.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { gridOf } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";
import { GRID, HEAD_NORM } from "../prelude/mod.ts";

const PARAMETERS = ["count", "slots", "queries", "heads", "size4", "epsilon"] as const;

const forwardKernel = defineKernel({
  name: "head_norm",
  file: "head_norm/head_norm.wgsl",
  source: forwardSource,
  preludes: [GRID, ...HEAD_NORM],
  bindings: ["x", "gains", "y"],
  parameters: PARAMETERS,
});

const backwardKernel = defineKernel({
  name: "head_norm_backward",
  file: "head_norm/head_norm_backward.wgsl",
  source: backwardSource,
  preludes: [GRID, ...HEAD_NORM],
  bindings: ["x", "gains", "dy"],
  parameters: PARAMETERS,
});

/** Which heads are normalised, and how. */
export interface HeadNormOptions {
  /** [1, 2 D]: gains of queries, then those of keys. */
  readonly gains: Tensor;
  /** H, heads of queries: the first ones. */
  readonly heads: number;
  /** G, heads of keys: those after them. */
  readonly kvHeads: number;
  /** Added to the mean square. */
  readonly epsilon: number;
}

function parametersOf(x: Tensor, { gains, heads, kvHeads, epsilon }: HeadNormOptions) {
  const size = gains.columns / 2;
  const slots = x.columns / size;
  if (size % 4 !== 0 || !Number.isInteger(slots) || slots < heads + kvHeads) {
    throw new TypeError(
      `Cannot normalise heads as "${x.label}" must have at least ${
        heads + kvHeads
      } heads of ${size} columns, a multiple of 4: it has ${x.columns} columns`,
    );
  }
  return { slots, queries: heads, heads: heads + kvHeads, size4: size / 4, epsilon };
}

/**
 * Normalises each head of queries and keys by itself: y = x / sqrt(mean(x^2) + epsilon) * gain.
 *
 * @param x Q, K and V side by side, [T, (H + 2 G) * D].
 * @param options Gains and heads.
 * @returns Shape of `x`; V as it is. The caller's to dispose.
 * @throws {TypeError} If the columns are not those of heads, or D is not a multiple of 4.
 */
export function headNorm(x: Tensor, options: HeadNormOptions): Tensor {
  const parameters = parametersOf(x, options);
  const y = x.engine.tensor(x.rows, x.columns, "head norm");
  const windows = y.windows();
  for (const [w, window] of x.windows().entries()) {
    const count = window.rows * parameters.slots;
    x.engine.dispatch(forwardKernel, {
      bindings: { x: window, gains: options.gains, y: windows[w]! },
      parameters: { ...parameters, count },
      workgroups: gridOf(count, 64),
    });
  }
  return y;
}

/**
 * Gradient of `headNorm`'s input, in place.
 *
 * @param x Input of the forward pass, [T, (H + 2 G) * D].
 * @param dy Gradient of the result, same shape; becomes that of the input.
 * @param options As in the forward pass.
 * @throws {TypeError} If the shapes differ or are not those of heads.
 */
export function headNormBackward(x: Tensor, dy: Tensor, options: HeadNormOptions): void {
  const parameters = parametersOf(x, options);
  if (dy.rows !== x.rows || dy.columns !== x.columns) {
    throw new TypeError(
      `Cannot normalise heads as shapes must be equal: "${x.label}" is [${x.rows}, ${x.columns}], "${dy.label}" is [${dy.rows}, ${dy.columns}]`,
    );
  }
  const windows = dy.windows();
  for (const [w, window] of x.windows().entries()) {
    const count = window.rows * parameters.heads;
    x.engine.dispatch(backwardKernel, {
      bindings: { x: window, gains: options.gains, dy: windows[w]! },
      parameters: { ...parameters, count },
      workgroups: gridOf(count, 64),
    });
  }
}
