/**
 * Clipping of a step's gradients by their global norm over all devices.
 *
 * @module
 */

/** Global norm of a step's gradients, from what each device's head modules add to its square. */
export function globalNorm(squares: readonly number[]): number {
  return Math.sqrt(squares.reduce((a, b) => a + b, 0));
}

/**
 * Factor that brings the global norm of a step's gradients down to a limit, as PyTorch's `clip_grad_norm_` does.
 *
 * @param squares What each device's head modules add to the squared norm, in order of their heads.
 * @param limit Largest norm.
 * @returns min(1, limit / (norm + 1e-6)), rounded to f32.
 */
export function clipFactor(squares: readonly number[], limit: number): number {
  return Math.fround(Math.min(1, limit / (globalNorm(squares) + 1e-6)));
}
