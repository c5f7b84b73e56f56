/**
 * The gate of a gated feed-forward network in double precision.
 *
 * @module
 */

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** silu(gate) * up, element by element. */
export function gatedReference(gate: ArrayLike<number>, up: ArrayLike<number>): Float64Array {
  return Float64Array.from(gate, (g, i) => g * sigmoid(g) * up[i]!);
}

/** Gradients of gate and up. */
export function gatedBackwardReference(
  gate: ArrayLike<number>,
  up: ArrayLike<number>,
  dy: ArrayLike<number>,
): { readonly dGate: Float64Array; readonly dUp: Float64Array } {
  return {
    dGate: Float64Array.from(gate, (g, i) => dy[i]! * up[i]! * sigmoid(g) * (1 + g * (1 - sigmoid(g)))),
    dUp: Float64Array.from(gate, (g, i) => dy[i]! * g * sigmoid(g)),
  };
}
