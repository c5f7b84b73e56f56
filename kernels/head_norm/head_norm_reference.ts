/**
 * RMS norm of heads in double precision, by that of whole rows.
 *
 * @module
 */

import { rmsNormBackwardReference, rmsNormReference } from "../rms_norm/rms_norm_reference.ts";

/** Sizes of what is normalised. */
export interface HeadNormShape {
  /** H, heads of queries. */
  readonly heads: number;
  /** G, heads of keys, and of values. */
  readonly kvHeads: number;
  /** D, head size. */
  readonly headSize: number;
}

/** Calls back with each head of queries and keys: where it begins, and its gain. */
function eachHead(
  length: number,
  gains: ArrayLike<number>,
  { heads, kvHeads, headSize }: HeadNormShape,
  call: (first: number, gain: number[]) => void,
): void {
  const columns = (heads + 2 * kvHeads) * headSize;
  const all = Array.from(gains);
  for (let row = 0; row < length / columns; row++) {
    for (let h = 0; h < heads + kvHeads; h++) {
      const gain = h < heads ? all.slice(0, headSize) : all.slice(headSize);
      call(row * columns + h * headSize, gain);
    }
  }
}

/** Q and K of every head normalised, V as it is; x [T, (H + 2 G) * D], gains [2, D]. */
export function headNormReference(
  x: ArrayLike<number>,
  gains: ArrayLike<number>,
  shape: HeadNormShape,
  epsilon: number,
): Float64Array {
  const y = Float64Array.from(x);
  eachHead(x.length, gains, shape, (first, gain) => {
    y.set(rmsNormReference(y.slice(first, first + shape.headSize), gain, epsilon).y, first);
  });
  return y;
}

/** Gradient of x; x and dy [T, (H + 2 G) * D]. */
export function headNormBackwardReference(
  { x, dy }: { readonly x: ArrayLike<number>; readonly dy: ArrayLike<number> },
  gains: ArrayLike<number>,
  shape: HeadNormShape,
  epsilon: number,
): Float64Array {
  const dx = Float64Array.from(dy);
  const values = Float64Array.from(x);
  eachHead(x.length, gains, shape, (first, gain) => {
    const head = values.slice(first, first + shape.headSize);
    const { statistics } = rmsNormReference(head, gain, epsilon);
    const gradient = rmsNormBackwardReference(head, gain, statistics, dx.slice(first, first + head.length));
    dx.set(gradient, first);
  });
  return dx;
}
