/**
 * Numbers and times as people read them.
 *
 * @module
 */

const COUNT = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A whole number. */
export function count(value: number): string {
  return COUNT.format(value);
}

/** A loss, or something like it. */
export function figure(value: number | null | undefined): string {
  return value === null || value === undefined ? "-" : value.toPrecision(4);
}

/** Bytes with a unit that fits. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  let rest = value;
  while (rest >= 1000 && at < units.length - 1) {
    rest /= 1000;
    at++;
  }
  return `${at === 0 || rest >= 100 ? COUNT.format(rest) : rest.toPrecision(3)} ${units[at]}`;
}

/** A span of time with units that fit. */
export function span(seconds: number): string {
  if (seconds < 1) return `${COUNT.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toPrecision(3)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days ${hours % 24} h`;
}

/** How long ago something was. */
export function ago(at: number, now: number): string {
  const seconds = Math.max(0, (now - at) / 1000);
  if (seconds < 5) return "just now";
  return `${seconds < 60 ? `${Math.floor(seconds)} s` : span(seconds)} ago`;
}

/** A day and time. */
export function moment(at: number): string {
  return new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}
