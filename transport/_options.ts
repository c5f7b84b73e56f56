/**
 * Checks of option values shared by the transports.
 *
 * @module
 */

/** Largest frame that a transport accepts unless told otherwise, in bytes. */
export const DEFAULT_MAX_FRAME_BYTES = 16 * 2 ** 20;

/** Bytes that wait in a queue of a channel unless told otherwise. */
export const DEFAULT_QUEUE_BYTES = 4 * 2 ** 20;

/** Longest delay that `setTimeout` honours; above it fires at once. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** Returns `value`, or `fallback` if absent, after checking that it is an integer in `1..max`. */
export function count(
  name: string,
  value: number | undefined,
  fallback: number,
  max: number = 2 ** 31 - 1,
): number {
  const checked = value ?? fallback;
  if (!Number.isInteger(checked) || checked < 1 || checked > max) {
    throw new RangeError(
      `Cannot set up the transport as '${name}' must be an integer in 1..${max}: current value is ${checked}`,
    );
  }
  return checked;
}

/** Returns `value`, or `fallback` if absent, after checking that it can be waited for. */
export function milliseconds(name: string, value: number | undefined, fallback: number): number {
  return count(name, value, fallback, MAX_DELAY_MS);
}
