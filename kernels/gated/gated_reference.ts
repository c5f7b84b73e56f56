/**
 * The gate of a gated feed-forward network in double precision.
 *
 * @module
 */

import type { GateActivation } from "./gated.ts";

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
/** What the tanh approximation of gelu is a sigmoid of, and its slope. */
const inner = (x: number) => 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const innerSlope = (x: number) => 2 * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x ** 2);

const ACTIVATIONS: Readonly<
  Record<GateActivation, { readonly value: (x: number) => number; readonly slope: (x: number) => number }>
> = {
  silu: { value: (x) => x * sigmoid(x), slope: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))) },
  gelu: {
    value: (x) => x * sigmoid(inner(x)),
    slope: (x) => {
      const s = sigmoid(inner(x));
      return s + x * s * (1 - s) * innerSlope(x);
    },
  },
};

/** f(gate) * up, element by element. */
export function gatedReference(
  gate: ArrayLike<number>,
  up: ArrayLike<number>,
  activation: GateActivation,
): Float64Array {
  return Float64Array.from(gate, (g, i) => ACTIVATIONS[activation].value(g) * up[i]!);
}

/** Gradients of gate and up. */
export function gatedBackwardReference(
  { gate, up }: { readonly gate: ArrayLike<number>; readonly up: ArrayLike<number> },
  dy: ArrayLike<number>,
  activation: GateActivation,
): { readonly dGate: Float64Array; readonly dUp: Float64Array } {
  const { value, slope } = ACTIVATIONS[activation];
  return {
    dGate: Float64Array.from(gate, (g, i) => dy[i]! * up[i]! * slope(g)),
    dUp: Float64Array.from(gate, (g, i) => dy[i]! * value(g)),
  };
}
