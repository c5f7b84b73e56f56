/**
 * Waiting for something, but not for long.
 *
 * @module
 */

/** Waits until a promise resolves, at most so many milliseconds. */
export async function raceTimeout(promise: Promise<void>, ms: number): Promise<void> {
  const { promise: timeout, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([promise, timeout]);
  clearTimeout(timer);
}
