/**
 * Sigmoid and squared error, as a network with outputs in (0, 1) ends.
 *
 * @module
 */

import source from "./sigmoid_loss.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";
import { VEC4 } from "../prelude/mod.ts";

const kernel = defineKernel({
  name: "sigmoid_loss",
  file: "sigmoid_loss/sigmoid_loss.wgsl",
  source,
  preludes: [VEC4],
  bindings: ["z", "offset", "labels", "weight", "p", "dz"],
  parameters: ["count4", "columns", "pitch4", "scale"],
});

/** Arguments of `sigmoidLoss`; all [rows, columns] of one shape. */
export interface SigmoidLossOptions {
  /** Added to z before the sigmoid. */
  readonly offset: Tensor;
  /** What p should be. */
  readonly target: Tensor;
  /** Weight of each squared error; 0 = does not count. */
  readonly weight: Tensor;
  /** Sum of the weights, above 0: what the sum of squared errors is divided by. */
  readonly total: number;
}

/**
 * p = sigmoid(z + offset), and the gradient of sum(weight * (p - target)^2) / total by z.
 *
 * @returns `p` and `dz`, shaped as z; the caller's to dispose.
 * @throws {TypeError} If the shapes differ.
 * @throws {RangeError} If `total` is not above 0.
 */
export function sigmoidLoss(
  z: Tensor,
  options: SigmoidLossOptions,
): { readonly p: Tensor; readonly dz: Tensor } {
  const { offset, target, weight, total } = options;
  const { engine, rows, columns, pitch } = z;
  for (const tensor of [offset, target, weight]) {
    if (tensor.rows !== rows || tensor.columns !== columns) {
      throw new TypeError(
        `Cannot compute the loss as "${tensor.label}" must be [${rows}, ${columns}]: it is [${tensor.rows}, ${tensor.columns}]`,
      );
    }
  }
  if (!(total > 0)) {
    throw new RangeError(`Cannot compute the loss as "total" must be above 0: current value is ${total}`);
  }
  const p = engine.tensor(rows, columns, "sigmoid");
  const dz = engine.tensor(rows, columns, "dz");
  const count4 = rows * pitch / 4;
  engine.dispatch(kernel, {
    bindings: { z, offset, labels: target, weight, p, dz },
    parameters: { count4, columns, pitch4: pitch / 4, scale: 1 / total },
    workgroups: [Math.ceil(count4 / 64)],
  });
  return { p, dz };
}
