/**
 * The one tolerance helper. A difference is allowed up to `absolute + relative * |expected|`.
 *
 * Which tolerance, and why:
 * - `exact`: copies, gathers, integer results, runs repeated on one machine.
 * - `sum`: one f32 reduction or product over up to a few thousand terms; rounding grows with the
 *   square root of the length, about 1e-7 * 30, and terms of both signs cancel: relative to the
 *   largest value of the tensor.
 * - `model`: a whole model forward and back in f32 against f64: 2e-6 was measured for PyTorch's own
 *   f32; another order of summation doubles it.
 * - `steps`: ten AdamW steps; early steps divide by sqrt(v) near zero and amplify rounding.
 * - `score`: sums of a few thousand terms in f64, in another order than the reference's.
 * - `difference`: central differences in f32: step^2 truncation plus rounding over the step.
 *
 * A tolerance may be widened only with a measured reason written here.
 *
 * @module
 */

import { AssertionError } from "@std/assert";

/** Allowed difference. Both parts are scaled by the largest expected value if `ofLargest` is set. */
export interface Tolerance {
  /** Part that does not depend on the value. */
  readonly absolute: number;
  /** Part in proportion to the expected value. */
  readonly relative: number;
  /** Measure against the largest expected value of the array, not each one's own. */
  readonly ofLargest: boolean;
}

export const TOLERANCE = {
  exact: { absolute: 0, relative: 0, ofLargest: false },
  sum: { absolute: 1e-12, relative: 5e-6, ofLargest: true },
  model: { absolute: 1e-12, relative: 1e-5, ofLargest: true },
  steps: { absolute: 1e-12, relative: 1e-4, ofLargest: true },
  score: { absolute: 1e-9, relative: 1e-9, ofLargest: false },
  difference: { absolute: 1e-12, relative: 1e-2, ofLargest: true },
} as const satisfies Record<string, Tolerance>;

/**
 * Fails if any value is further from the expected one than the tolerance allows; says where, both
 * values and the largest difference.
 */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
  what = "values",
): void {
  if (actual.length !== expected.length) {
    throw new AssertionError(`${what}: expected ${expected.length} values, got ${actual.length}`);
  }
  let largest = 0;
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(expected[i]!));
  let worst = -1;
  let worstExcess = 0;
  for (let i = 0; i < expected.length; i++) {
    const scale = tolerance.ofLargest ? largest : Math.abs(expected[i]!);
    const allowed = tolerance.absolute + tolerance.relative * scale;
    const difference = Math.abs(actual[i]! - expected[i]!);
    // Written so that NaN fails.
    if (!(difference <= allowed) && !(difference - allowed <= worstExcess)) {
      worst = i;
      worstExcess = Number.isNaN(difference) ? Infinity : difference - allowed;
    }
  }
  if (worst >= 0) {
    throw new AssertionError(
      `${what}: value ${worst} of ${expected.length} is ${actual[worst]}, expected ${expected[worst]} ` +
        `(difference ${
          Math.abs(actual[worst]! - expected[worst]!).toExponential(2)
        }, largest expected value ${largest.toExponential(2)}, tolerance ${tolerance.relative} relative${
          tolerance.ofLargest ? " to that" : ""
        })`,
    );
  }
}
