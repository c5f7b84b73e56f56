/**
 * Checks of option values shared by the transports.
 *
 * @module
 */

/** Largest frame that a transport accepts unless told otherwise, in bytes. */
export const DEFAULT_MAX_FRAME_BYTES = 64 * 2 ** 20;

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

/** Reads and checks how often a side gives a sign of life, and how long a silence it bears. */
export function signsOfLife(
  options: { readonly pingIntervalMs?: number; readonly idleTimeoutMs?: number },
): { readonly pingIntervalMs: number; readonly idleTimeoutMs: number } {
  const idleTimeoutMs = milliseconds("idleTimeoutMs", options.idleTimeoutMs, 30_000);
  const fallback = Math.max(1, Math.min(10_000, Math.floor(idleTimeoutMs / 3)));
  const pingIntervalMs = milliseconds("pingIntervalMs", options.pingIntervalMs, fallback);
  if (2 * pingIntervalMs > idleTimeoutMs) {
    throw new RangeError(
      `Cannot set up the transport as 'idleTimeoutMs' must be at least twice 'pingIntervalMs': ` +
        `current values are ${idleTimeoutMs} and ${pingIntervalMs}`,
    );
  }
  return { pingIntervalMs, idleTimeoutMs };
}

/** True if an answer of this HTTP status will be the same the next time. */
export function isForGood(status: number): boolean {
  return status >= 400 && status < 500 && status !== 408 && status !== 425 && status !== 429;
}

/** Returns `value`, or `fallback` if absent, after checking that it is a number of at least `min`. */
export function amount(name: string, value: number | undefined, fallback: number, min: number): number {
  const checked = value ?? fallback;
  if (!(checked >= min && checked < Infinity)) {
    throw new RangeError(
      `Cannot set up the transport as '${name}' must be a finite number of at least ${min}: ` +
        `current value is ${checked}`,
    );
  }
  return checked;
}

/** Returns `url` parsed, with the scheme for plain HTTP or its WebSocket form. */
export function endpoint(url: string | URL, kind: "http" | "ws"): URL {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw new SyntaxError(
      `Cannot set up the transport as 'url' must be an absolute URL: current value is "${url}"`,
    );
  }
  const match = /^(?:http|ws)(s?):$/.exec(parsed.protocol);
  if (!match) {
    throw new TypeError(
      `Cannot set up the transport as the scheme of 'url' must be one of http, https, ws and wss: ` +
        `current value is "${parsed.protocol.slice(0, -1)}"`,
    );
  }
  // The setter of 'protocol' refuses some changes, text does not.
  return new URL(kind + match[1] + parsed.href.slice(parsed.protocol.length - 1));
}
