/**
 * Limits of time in tests, which a busy machine stretches and a quiet one does not.
 *
 * @module
 */

import { assertLess } from "@std/assert";

/** How much longer things take as others use the machine too: 1 where there is a processor for each. */
export function stretch(): number {
  const [load] = Deno.loadavg(); // zero on Windows
  return Math.max(1, load! / navigator.hardwareConcurrency);
}

/**
 * Fails if something took too long, given how busy the machine is.
 *
 * @param ms What it took.
 * @param limitMs What it may take on a quiet machine.
 * @param what What it is, for the error.
 */
export function assertQuick(ms: number, limitMs: number, what = "this"): void {
  if (ms < limitMs) return;
  const factor = stretch();
  assertLess(ms, limitMs * factor, `${what} took ${ms} ms: more than ${limitMs} ms, ${factor} times as busy`);
}
