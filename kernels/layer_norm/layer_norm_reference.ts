/**
 * Layer norm in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

/** Result of `layerNormReference`. */
export interface LayerNormReferenceResult {
  /** [rows, columns] */
  readonly y: Float64Array;
  /** [rows, 2]: mean and reciprocal standard deviation. */
  readonly statistics: Float64Array;
}

/** y = (x - mean) / sqrt(variance + epsilon) * gamma + beta; x [rows, columns], gamma and beta [columns]. */
export function layerNormReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  beta: ArrayLike<number>,
  epsilon: number,
): LayerNormReferenceResult {
  const columns = gamma.length;
  const rows = x.length / columns;
  const y = new Float64Array(x.length);
  const statistics = new Float64Array(rows * 2);
  for (let r = 0; r < rows; r++) {
    let mean = 0;
    for (let c = 0; c < columns; c++) mean += x[r * columns + c]! / columns;
    let variance = 0;
    for (let c = 0; c < columns; c++) variance += (x[r * columns + c]! - mean) ** 2 / columns;
    const rstd = 1 / Math.sqrt(variance + epsilon);
    for (let c = 0; c < columns; c++) {
      y[r * columns + c] = (x[r * columns + c]! - mean) * rstd * gamma[c]! + beta[c]!;
    }
    statistics.set([mean, rstd], r * 2);
  }
  return { y, statistics };
}

/** Result of `layerNormBackwardReference`. */
export interface LayerNormBackwardReferenceResult {
  /** [rows, columns] */
  readonly dx: Float64Array;
  /** [columns] */
  readonly dgamma: Float64Array;
  /** [columns] */
  readonly dbeta: Float64Array;
}

/** Gradients of layer norm; x and dy [rows, columns], gamma [columns], statistics [rows, 2]. */
export function layerNormBackwardReference(
  x: ArrayLike<number>,
  gamma: ArrayLike<number>,
  statistics: ArrayLike<number>,
  dy: ArrayLike<number>,
): LayerNormBackwardReferenceResult {
  const columns = gamma.length;
  const rows = x.length / columns;
  const dx = new Float64Array(x.length);
  const dgamma = new Float64Array(columns);
  const dbeta = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    const mean = statistics[r * 2]!;
    const rstd = statistics[r * 2 + 1]!;
    const normalised = (c: number) => (x[r * columns + c]! - mean) * rstd;
    let meanG = 0;
    let meanGx = 0;
    for (let c = 0; c < columns; c++) {
      const d = dy[r * columns + c]!;
      dgamma[c]! += d * normalised(c);
      dbeta[c]! += d;
      meanG += d * gamma[c]! / columns;
      meanGx += d * gamma[c]! * normalised(c) / columns;
    }
    for (let c = 0; c < columns; c++) {
      dx[r * columns + c] = rstd * (dy[r * columns + c]! * gamma[c]! - meanG - normalised(c) * meanGx);
    }
  }
  return { dx, dgamma, dbeta };
}

/** Sums down the rows of x [rows, columns]; returns [columns]. */
export function columnSumsReference(x: ArrayLike<number>, columns: number): Float64Array {
  const sums = new Float64Array(columns);
  for (let i = 0; i < x.length; i++) sums[i % columns]! += x[i]!;
  return sums;
}
