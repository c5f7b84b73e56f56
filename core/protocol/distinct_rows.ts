/**
 * Rows that are equal travel once: tokens repeat, and so do the rows of E.
 *
 * n rows of d numbers, U of them different.
 *
 * @module
 */

import { ProtocolError } from "../contracts/errors.ts";

/** Rows of a matrix, each once. */
export interface DistinctRows {
  /** The rows in the order in which they first come, [U, d]. */
  readonly rows: Float32Array;
  /** U. */
  readonly count: number;
  /** Which of them each row of the matrix is, [n]. */
  readonly places: Uint32Array;
}

/** Bytes of a row's number, low bits first, where there are so many rows. */
export function placeBytes(rows: number): 1 | 2 | 3 | 4 {
  return rows <= 2 ** 8 ? 1 : rows <= 2 ** 16 ? 2 : rows <= 2 ** 24 ? 3 : 4;
}

/**
 * Finds equal rows, bit for bit.
 *
 * @param values The matrix, [n, d], row-major.
 * @param columns d.
 */
export function distinctRows(values: Float32Array, columns: number): DistinctRows {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const count = values.length / columns;
  const places = new Uint32Array(count);
  const firsts: number[] = [];
  // Rows of one hash, by their number among those that differ; two different ones rarely meet.
  const known = new Map<number, number[]>();
  const isEqual = (a: number, b: number) => {
    for (let i = 0; i < columns; i++) if (words[a * columns + i] !== words[b * columns + i]) return false;
    return true;
  };
  for (let row = 0; row < count; row++) {
    let hash = 0;
    for (let i = row * columns; i < (row + 1) * columns; i++) hash = Math.imul(hash ^ words[i]!, 0x9e3779b1);
    const alike = known.get(hash) ?? [];
    let place = alike.find((p) => isEqual(firsts[p]!, row));
    if (place === undefined) {
      place = firsts.push(row) - 1;
      known.set(hash, [...alike, place]);
    }
    places[row] = place;
  }
  const rows = new Float32Array(firsts.length * columns);
  firsts.forEach((first, i) =>
    rows.set(values.subarray(first * columns, (first + 1) * columns), i * columns)
  );
  return { rows, count: firsts.length, places };
}

/** The numbers of rows as bytes, [n * placeBytes(U)]. */
export function writePlaces({ places, count }: DistinctRows): Uint8Array {
  const width = placeBytes(count);
  const bytes = new Uint8Array(places.length * width);
  places.forEach((place, i) => {
    for (let b = 0; b < width; b++) bytes[i * width + b] = place >>> 8 * b;
  });
  return bytes;
}

/**
 * The matrix again.
 *
 * @param rows The rows, [U, d].
 * @param columns d.
 * @param bytes Which of them each row is, as `writePlaces` gives it.
 * @throws {ProtocolError} If a row is meant that is not there.
 */
export function repeatRows(rows: Float32Array, columns: number, bytes: Uint8Array): Float32Array {
  const count = rows.length / columns;
  const width = placeBytes(count);
  const values = new Float32Array(bytes.length / width * columns);
  for (let i = 0; i * width < bytes.length; i++) {
    let place = 0;
    for (let b = width - 1; b >= 0; b--) place = place * 256 + bytes[i * width + b]!;
    if (place >= count) {
      throw new ProtocolError(
        `Cannot read the rows of E as each must be one of ${count}: row ${i} is ${place}`,
      );
    }
    values.set(rows.subarray(place * columns, (place + 1) * columns), i * columns);
  }
  return values;
}
