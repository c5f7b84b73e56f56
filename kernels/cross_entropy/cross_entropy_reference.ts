/**
 * Softmax cross-entropy in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

/** Arguments of `crossEntropyReference`. */
export interface CrossEntropyReferenceOptions {
  /** [rows] */
  readonly targets: ArrayLike<number>;
  /** [rows] */
  readonly weights: ArrayLike<number>;
  /** Label smoothing s. */
  readonly smoothing: number;
}

/** Result of `crossEntropyReference`. */
export interface CrossEntropyReferenceResult {
  /** [rows] */
  readonly losses: Float64Array;
  /** Gradient of the sum of the losses, [rows, V]. */
  readonly gradient: Float64Array;
}

/** weight * ((1 - s) * -log p[target] + s * mean of -log p) for each row of logits [rows, V]. */
export function crossEntropyReference(
  logits: ArrayLike<number>,
  { targets, weights, smoothing }: CrossEntropyReferenceOptions,
): CrossEntropyReferenceResult {
  const rows = targets.length;
  const vocabulary = logits.length / rows;
  const losses = new Float64Array(rows);
  const gradient = new Float64Array(logits.length);
  for (let r = 0; r < rows; r++) {
    const at = (v: number) => logits[r * vocabulary + v]!;
    let highest = -Infinity;
    for (let v = 0; v < vocabulary; v++) highest = Math.max(highest, at(v));
    let sum = 0;
    for (let v = 0; v < vocabulary; v++) sum += Math.exp(at(v) - highest);
    const logSum = highest + Math.log(sum);
    let meanNegative = 0;
    for (let v = 0; v < vocabulary; v++) meanNegative += (logSum - at(v)) / vocabulary;
    losses[r] = weights[r]! * ((1 - smoothing) * (logSum - at(targets[r]!)) + smoothing * meanNegative);
    for (let v = 0; v < vocabulary; v++) {
      const wanted = (v === targets[r] ? 1 - smoothing : 0) + smoothing / vocabulary;
      gradient[r * vocabulary + v] = weights[r]! * (Math.exp(at(v) - logSum) - wanted);
    }
  }
  return { losses, gradient };
}
