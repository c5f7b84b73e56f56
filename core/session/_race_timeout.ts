/**
 * Waiting for something, but not for long.
 *
 * @module
 */

import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";

/** Waits until a promise resolves, at most so many milliseconds of a clock. */
export async function raceTimeout(
  promise: Promise<void>,
  ms: number,
  clock: RunClock = WALL_CLOCK,
): Promise<void> {
  const { promise: timeout, resolve } = Promise.withResolvers<void>();
  const cancel = clock.schedule(clock.now() + ms, resolve);
  await Promise.race([promise, timeout]);
  cancel();
}

/** Waits, but no longer than the signal allows. */
export async function pause(ms: number, clock: RunClock, signal: AbortSignal | undefined): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const cancel = clock.schedule(clock.now() + ms, resolve);
  const end = () => resolve();
  signal?.addEventListener("abort", end, { once: true });
  if (signal?.aborted) resolve();
  await promise;
  cancel();
  signal?.removeEventListener("abort", end);
}
