/**
 * Element-wise arithmetic.
 *
 * @module
 */

import addScaledSource from "./add_scaled.wgsl" with { type: "text" };
import reluSource from "./relu.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { gridOf } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";
import { GRID } from "../prelude/mod.ts";

const addScaledKernel = defineKernel({
  name: "add_scaled",
  file: "elementwise/add_scaled.wgsl",
  source: addScaledSource,
  preludes: [GRID],
  bindings: ["x", "y"],
  parameters: ["count4", "alpha"],
});

const reluKernels = [false, true].map((keep) =>
  defineKernel({
    name: keep ? "relu_backward" : "relu",
    file: "elementwise/relu.wgsl",
    source: reluSource,
    preludes: [GRID],
    bindings: ["kept", "y"],
    parameters: ["count4"],
    constants: { KEEP: Number(keep) },
  })
);

function dispatchRelu(kept: Tensor | null, y: Tensor): void {
  const keptWindows = kept?.windows();
  y.windows().forEach((window, w) => {
    const count4 = window.bytes / 16;
    y.engine.dispatch(reluKernels[Number(kept !== null)]!, {
      bindings: { kept: keptWindows?.[w] ?? y.engine.nullInput, y: window },
      parameters: { count4 },
      workgroups: gridOf(count4, 64),
    });
  });
}

/** y = max(y, 0), in place. */
export function relu(y: Tensor): void {
  dispatchRelu(null, y);
}

/**
 * Gradient of relu's input from that of its result, in place.
 *
 * @param y Result of the forward pass, [rows, columns].
 * @param dy Its gradient; where `y` is 0 it becomes 0.
 * @throws {TypeError} If the shapes differ.
 */
export function reluBackward(y: Tensor, dy: Tensor): void {
  if (y.rows !== dy.rows || y.columns !== dy.columns) {
    throw new TypeError(
      `Cannot go back through relu as shapes must be equal: y is [${y.rows}, ${y.columns}], dy is [${dy.rows}, ${dy.columns}]`,
    );
  }
  dispatchRelu(y, dy);
}

/**
 * y += alpha * x.
 *
 * @throws {TypeError} If the shapes differ.
 */
export function addScaled(x: Tensor, y: Tensor, alpha = 1): void {
  if (x.rows !== y.rows || x.columns !== y.columns) {
    throw new TypeError(
      `Cannot add as shapes must be equal: x is [${x.rows}, ${x.columns}], y is [${y.rows}, ${y.columns}]`,
    );
  }
  const yWindows = y.windows();
  x.windows().forEach((window, w) => {
    const count4 = window.bytes / 16;
    x.engine.dispatch(addScaledKernel, {
      bindings: { x: window, y: yWindows[w]! },
      parameters: { count4, alpha },
      workgroups: gridOf(count4, 64),
    });
  });
}
