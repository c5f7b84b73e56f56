/**
 * Sigmoid and squared error in double precision.
 *
 * @module
 */

/** 1 / (1 + exp(-x)) */
export function sigmoidReference(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** p = sigmoid(z + offset), sum(weight * (p - target)^2) / total, and its gradient by z. */
export function sigmoidLossReference(
  z: ArrayLike<number>,
  { offset, target, weight, total }: {
    readonly offset: ArrayLike<number>;
    readonly target: ArrayLike<number>;
    readonly weight: ArrayLike<number>;
    readonly total: number;
  },
): { readonly p: Float64Array; readonly dz: Float64Array; readonly loss: number } {
  const p = Float64Array.from(z, (x, i) => sigmoidReference(x + offset[i]!));
  const dz = p.map((s, i) => weight[i]! * 2 * (s - target[i]!) * s * (1 - s) / total);
  const loss = p.reduce((sum, s, i) => sum + weight[i]! * (s - target[i]!) ** 2, 0) / total;
  return { p, dz, loss };
}
