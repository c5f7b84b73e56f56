/**
 * Element-wise arithmetic in double precision.
 *
 * @module
 */

/** y + alpha * x, element by element. */
export function addScaledReference(x: ArrayLike<number>, y: ArrayLike<number>, alpha: number): Float64Array {
  return Float64Array.from(y, (v, i) => v + alpha * x[i]!);
}
