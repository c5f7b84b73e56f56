/**
 * The gate of a gated feed-forward network (SwiGLU and GeGLU; Shazeer, 2020).
 *
 * @module
 */

import backwardSource from "./gated_backward.wgsl" with { type: "text" };
import forwardSource from "./gated.wgsl" with { type: "text" };
import { defineKernel, type Kernel } from "../engine/kernel.ts";
import { gridOf } from "../engine/lanes.ts";
import type { RowWindow, Tensor } from "../engine/tensor.ts";
import { GELU, GRID } from "../prelude/mod.ts";

/** What the gate passes through: `gelu` is its tanh approximation. */
export type GateActivation = "silu" | "gelu";

const forwardKernels = forActivations((activation) =>
  defineKernel({
    name: `gated_${activation}`,
    file: "gated/gated.wgsl",
    source: forwardSource,
    preludes: [GRID, GELU],
    bindings: ["gate", "up", "y"],
    parameters: ["count4"],
    constants: { GELU: Number(activation === "gelu") },
  })
);

const backwardKernels = forActivations((activation) =>
  defineKernel({
    name: `gated_backward_${activation}`,
    file: "gated/gated_backward.wgsl",
    source: backwardSource,
    preludes: [GRID, GELU],
    bindings: ["gate", "up", "dy", "d_gate", "d_up"],
    parameters: ["count4"],
    constants: { GELU: Number(activation === "gelu") },
  })
);

function forActivations<T>(make: (activation: GateActivation) => T): Readonly<Record<GateActivation, T>> {
  return { silu: make("silu"), gelu: make("gelu") };
}

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
function elementwise<const B extends string>(
  kernel: Kernel<"count4", B>,
  tensors: Readonly<Record<B, Tensor>>,
): void {
  const windows = Object.entries<Tensor>(tensors).map(([name, tensor]) => [name, tensor.windows()] as const);
  windows[0]![1].forEach((window, w) => {
    const count4 = window.bytes / 16;
    window.tensor.engine.dispatch(kernel, {
      bindings: Object.fromEntries(windows.map(([name, all]) => [name, all[w]!])) as Record<B, RowWindow>,
      parameters: { count4 },
      workgroups: gridOf(count4, 64),
    });
  });
}

/**
 * y = f(gate) * up, element by element.
 *
 * @param gate [rows, columns]
 * @param up [rows, columns]
 * @param activation f. @default {"silu"}
 * @returns [rows, columns]; the caller's to dispose.
 * @throws {TypeError} If the shapes differ.
 */
export function gated(gate: Tensor, up: Tensor, activation: GateActivation = "silu"): Tensor {
  requireEqualShapes(gate, up);
  const y = gate.engine.tensor(gate.rows, gate.columns, "gated");
  elementwise(forwardKernels[activation], { gate, up, y });
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
 * @param activation f. @default {"silu"}
 * @throws {TypeError} If the shapes differ.
 */
export function gatedBackward(
  { gate, up }: { readonly gate: Tensor; readonly up: Tensor },
  dy: Tensor,
  activation: GateActivation = "silu",
): GatedGradients {
  requireEqualShapes(gate, up, dy);
  const dGate = gate.engine.tensor(gate.rows, gate.columns, "d gate");
  const dUp = gate.engine.tensor(gate.rows, gate.columns, "d up");
  elementwise(backwardKernels[activation], { gate, up, dy, d_gate: dGate, d_up: dUp });
  return { dGate, dUp };
}
