/**
 * Rotary position embedding in double precision: slow, readable, what the kernel is compared with.
 *
 * @module
 */

/** Shape of what is turned. */
export interface RopeShape {
  /** Columns of x. */
  readonly columns: number;
  /** Heads to turn: the first `heads * D` columns. */
  readonly heads: number;
  /** T, rows of each sequence. */
  readonly length: number;
  /** Position of each sequence's first row. */
  readonly first: number;
}

/** Turns x [B * T, columns] by `sign` times the angles; frequencies [D / 2]. */
export function ropeReference(
  x: ArrayLike<number>,
  frequencies: ArrayLike<number>,
  { columns, heads, length, first }: RopeShape,
  sign = 1,
): Float64Array {
  const half = frequencies.length;
  const y = Float64Array.from(x);
  for (let r = 0; r < x.length / columns; r++) {
    const position = first + r % length;
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < half; i++) {
        const at = r * columns + h * 2 * half + i;
        const angle = sign * position * frequencies[i]!;
        y[at] = x[at]! * Math.cos(angle) - x[at + half]! * Math.sin(angle);
        y[at + half] = x[at + half]! * Math.cos(angle) + x[at]! * Math.sin(angle);
      }
    }
  }
  return y;
}
