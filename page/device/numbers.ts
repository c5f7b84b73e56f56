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

/** Bytes in MB, with two digits that count. */
export function megabytes(bytes: number): string {
  const value = bytes / 1e6;
  return `${value >= 10 ? COUNT.format(Math.round(value)) : value.toPrecision(2)} MB`;
}
