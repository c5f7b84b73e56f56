/**
 * Looking for numbers that are not finite.
 *
 * @module
 */

/**
 * Where the first number that is NaN or infinite is.
 *
 * @returns Its index; -1 if all are finite.
 */
export function firstNotFinite(values: Float32Array): number {
  // The product of 0 and a number is 0 unless that is not finite, and a sum keeps a NaN: no branch in the loop.
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += 0 * values[i]!;
  return sum === 0 ? -1 : values.findIndex((x) => !Number.isFinite(x));
}
