/**
 * The gate of a gated feed-forward network (SwiGLU; Shazeer, 2020).
 *
 * @module
 */

import backwardSource from "./gated_backward.wgsl" with { type: "text" };
import forwardSource from "./gated.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";

const forwardKernel = defineKernel({
  name: "gated",
  source: forwardSource,
  bindings: ["read", "read", "write"],
  parameters: [["count4", "u32"]],
});

const backwardKernel = defineKernel({
  name: "gated_backward",
  source: backwardSource,
  bindings: ["read", "read", "read", "write", "write"],
  parameters: [["count4", "u32"]],
});

function requireEqualShapes(first: Tensor, ...others: readonly Tensor[]): void {
  for (const other of others) {
    if (other.rows !== first.rows || other.columns !== first.columns) {
      throw new TypeError(
        `Cannot gate as shapes must be equal: "${first.label}" is [${first.rows}, ${first.columns}], "${other.label}" is [${other.rows}, ${other.columns}]`,
      );
    }
  }
}

/** Runs a kernel over all elements of tensors of one shape, window by window. */
function elementwise(kernel: typeof forwardKernel, tensors: readonly Tensor[]): void {
  const windows = tensors.map((t) => t.windows());
  windows[0]!.forEach((window, w) => {
    const count4 = window.bytes / 16;
    const groups = Math.ceil(count4 / 64);
    window.tensor.engine.dispatch(kernel, {
      bindings: windows.map((all) => all[w]!),
      parameters: { count4 },
      workgroups: [Math.min(groups, 32_768), Math.ceil(groups / 32_768)],
    });
  });
}

/**
 * y = silu(gate) * up, element by element.
 *
 * @param gate [rows, columns]
 * @param up [rows, columns]
 * @returns [rows, columns]; the caller's to dispose.
 * @throws {TypeError} If the shapes differ.
 */
export function gated(gate: Tensor, up: Tensor): Tensor {
  requireEqualShapes(gate, up);
  const y = gate.engine.tensor(gate.rows, gate.columns, "gated");
  elementwise(forwardKernel, [gate, up, y]);
  return y;
}

/** Result of `gatedBackward`. */
export interface GatedGradients {
  /** [rows, columns] */
  readonly dGate: Tensor;
  /** [rows, columns] */
  readonly dUp: Tensor;
}

/**
 * Gradients of `gated`; the caller's to dispose.
 *
 * @param inputs `gate` and `up` of the forward pass, [rows, columns].
 * @param dy [rows, columns]
 * @throws {TypeError} If the shapes differ.
 */
export function gatedBackward(
  { gate, up }: { readonly gate: Tensor; readonly up: Tensor },
  dy: Tensor,
): GatedGradients {
  requireEqualShapes(gate, up, dy);
  const dGate = gate.engine.tensor(gate.rows, gate.columns, "d gate");
  const dUp = gate.engine.tensor(gate.rows, gate.columns, "d up");
  elementwise(backwardKernel, [gate, up, dy, dGate, dUp]);
  return { dGate, dUp };
}
