/**
 * Numbers as people read them.
 *
 * @module
 */

const COUNT = new Intl.NumberFormat("en");

/** A whole number. */
export function count(value: number): string {
  return COUNT.format(value);
}

/** Bytes in MB, with two digits that count; few of them in kB. */
export function megabytes(bytes: number): string {
  if (bytes < 1e5) return `${(bytes / 1000).toPrecision(2)} kB`;
  const value = bytes / 1e6;
  return `${value >= 10 ? COUNT.format(Math.round(value)) : value.toPrecision(2)} MB`;
}
