/**
 * Limits of waiting.
 *
 * @module
 */

import type { RunServerOptions } from "./run_server_options.ts";

/** Longest delay in milliseconds that timers honour, about 24 days: above it they fire at once. */
const MAX_WAIT_MS = 2 ** 31 - 1;

/**
 * Checks a limit of waiting.
 *
 * @returns The limit, in milliseconds.
 * @throws {RangeError} If timers cannot keep to it.
 */
export function checkWait(name: string, ms: number): number {
  if (ms > 0 && ms <= MAX_WAIT_MS) return ms;
  throw new RangeError(
    `Cannot take part in a run as ${name} must be above 0 and at most ${MAX_WAIT_MS} ms: current value is ${ms}`,
  );
}

/**
 * Checks the limits of a server.
 *
 * @returns Its longest pause, in milliseconds.
 * @throws {RangeError} If timers cannot keep to one of them.
 */
export function checkServerWaits(
  { timeoutMs = 120_000, joinTimeoutMs = 600_000, helloTimeoutMs = 10_000, pauseTimeoutMs = 86_400_000 }:
    Pick<
      RunServerOptions,
      "timeoutMs" | "joinTimeoutMs" | "helloTimeoutMs" | "pauseTimeoutMs"
    >,
): number {
  for (const [name, ms] of Object.entries({ timeoutMs, joinTimeoutMs, helloTimeoutMs })) checkWait(name, ms);
  return pauseTimeoutMs === 0 ? Infinity : checkWait("pauseTimeoutMs", pauseTimeoutMs);
}
