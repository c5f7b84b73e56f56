/**
 * AdamW, gradient norms and clipping in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

import type { AdamWSettings } from "./optimizer.ts";

/** State of an AdamW update; arrays of one length. */
export interface AdamWReferenceState {
  /** Updated in place. */
  readonly parameters: Float64Array;
  /** First moment, updated in place. */
  readonly m: Float64Array;
  /** Second moment, updated in place. */
  readonly v: Float64Array;
}

/**
 * One AdamW update with decoupled weight decay, as PyTorch does it.
 *
 * @param state Parameters and moments.
 * @param update Gradients of the same length; updates of each segment, this one included (0 = the segment stays as
 * it is); factor of the gradients.
 * @param settings Learning rate and the rest.
 */
export function adamwReference(
  { parameters, m, v }: AdamWReferenceState,
  { gradients, counts, scale = 1 }: {
    readonly gradients: ArrayLike<number>;
    readonly counts: ArrayLike<number>;
    readonly scale?: number | undefined;
  },
  { rate, beta1, beta2, epsilon, decay }: AdamWSettings,
): void {
  const segment = parameters.length / counts.length;
  for (let i = 0; i < parameters.length; i++) {
    const t = counts[Math.floor(i / segment)]!;
    if (t === 0) continue;
    const g = gradients[i]! * scale;
    m[i] = beta1 * m[i]! + (1 - beta1) * g;
    v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
    const mHat = m[i]! / (1 - beta1 ** t);
    const vHat = v[i]! / (1 - beta2 ** t);
    parameters[i] = parameters[i]! * (1 - rate * decay) - rate * mHat / (Math.sqrt(vHat) + epsilon);
  }
}

/** Numbers [first, first + size) of each segment that is not active, times a factor. */
export function fadeReference(
  x: ArrayLike<number>,
  active: ArrayLike<number>,
  { first, size, factor }: { readonly first: number; readonly size: number; readonly factor: number },
): Float64Array {
  const segment = x.length / active.length;
  return Float64Array.from(x, (value, i) => {
    const within = i % segment - first;
    return !active[Math.floor(i / segment)] && within >= 0 && within < size ? value * factor : value;
  });
}

/** Frobenius norm of each segment of x, 0 where it is not active. */
export function segmentNormsReference(x: ArrayLike<number>, active: ArrayLike<number>): Float64Array {
  const squares = new Float64Array(active.length);
  const segment = x.length / active.length;
  for (let i = 0; i < x.length; i++) squares[Math.floor(i / segment)]! += x[i]! ** 2;
  return squares.map((s, i) => active[i] ? Math.sqrt(s) : 0);
}

/** ||x - before||_F / ||x||_F of each segment, 0 where it is not active or x is all zero. */
export function segmentChangeReference(
  x: ArrayLike<number>,
  before: ArrayLike<number>,
  active: ArrayLike<number>,
): Float64Array {
  const difference = Float64Array.from(x, (value, i) => value - before[i]!);
  const now = segmentNormsReference(x, active);
  return segmentNormsReference(difference, active).map((change, s) => now[s] === 0 ? 0 : change / now[s]!);
}

/** Factor that brings the norm of all gradients down to `limit`, and the norm before. */
export function clipScaleReference(gradients: readonly ArrayLike<number>[], limit: number): [number, number] {
  let squares = 0;
  for (const g of gradients) for (let i = 0; i < g.length; i++) squares += g[i]! ** 2;
  const norm = Math.sqrt(squares);
  return [Math.min(1, limit / (norm + 1e-6)), norm];
}
