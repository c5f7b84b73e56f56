/**
 * Element-wise arithmetic in double precision.
 *
 * @module
 */

/** y + alpha * x, element by element. */
export function addScaledReference(x: ArrayLike<number>, y: ArrayLike<number>, alpha: number): Float64Array {
  return Float64Array.from(y, (v, i) => v + alpha * x[i]!);
}

/** max(x, 0), element by element. */
export function reluReference(x: ArrayLike<number>): Float64Array {
  return Float64Array.from(x, (v) => v > 0 ? v : 0);
}

/** Gradient of x: that of the result where x is positive, 0 elsewhere. */
export function reluBackwardReference(x: ArrayLike<number>, dy: ArrayLike<number>): Float64Array {
  return Float64Array.from(dy, (v, i) => x[i]! > 0 ? v : 0);
}
