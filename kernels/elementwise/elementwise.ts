/**
 * Element-wise arithmetic.
 *
 * @module
 */

import addScaledSource from "./add_scaled.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";

const addScaledKernel = defineKernel({
  name: "add_scaled",
  source: addScaledSource,
  bindings: ["read", "write"],
  parameters: [["count4", "u32"], ["alpha", "f32"]],
});

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
    const groups = Math.ceil(count4 / 64);
    x.engine.dispatch(addScaledKernel, {
      bindings: [window, yWindows[w]!],
      parameters: { count4, alpha },
      workgroups: [Math.min(groups, 32_768), Math.ceil(groups / 32_768)],
    });
  });
}
