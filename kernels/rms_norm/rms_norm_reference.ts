/**
 * RMS norm in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

/** Result of `rmsNormReference`. */
export interface RmsNormReferenceResult {
  /** [rows, columns] */
  readonly y: Float64Array;
  /** [rows]: reciprocal root mean square. */
  readonly statistics: Float64Array;
}

/** y = x / sqrt(mean(x^2) + epsilon) * gamma; x [rows, columns], gamma [columns]. */
export function rmsNormReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  epsilon: number,
): RmsNormReferenceResult {
  const columns = gamma.length;
  const rows = x.length / columns;
  const statistics = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    let square = 0;
    for (let c = 0; c < columns; c++) square += x[r * columns + c]! ** 2 / columns;
    statistics[r] = 1 / Math.sqrt(square + epsilon);
  }
  const y = Float64Array.from(x, (v, i) => v * statistics[Math.floor(i / columns)]! * gamma[i % columns]!);
  return { y, statistics };
}

/** Gradient of x; x and dy [rows, columns], gamma [columns], statistics [rows]. */
export function rmsNormBackwardReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  statistics: ArrayLike<number>,
  dy: ArrayLike<number>,
): Float64Array {
  const columns = gamma.length;
  const dx = new Float64Array(x.length);
  for (let r = 0; r < statistics.length; r++) {
    const rstd = statistics[r]!;
    let mean = 0;
    for (let c = 0; c < columns; c++) {
      mean += dy[r * columns + c]! * gamma[c]! * x[r * columns + c]! / columns;
    }
    for (let c = 0; c < columns; c++) {
      const i = r * columns + c;
      dx[i] = rstd * (dy[i]! * gamma[c]! - x[i]! * rstd ** 2 * mean);
    }
  }
  return dx;
}
