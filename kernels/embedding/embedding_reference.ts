/**
 * Embedding tables in double precision.
 *
 * @module
 */

/** Rows `ids` of a table [entries, columns]; returns [ids.length, columns]. */
export function embeddingGatherReference(
  table: ArrayLike<number>,
  ids: ArrayLike<number>,
  columns: number,
): Float64Array {
  const out = new Float64Array(ids.length * columns);
  for (let row = 0; row < ids.length; row++) {
    for (let c = 0; c < columns; c++) out[row * columns + c] = table[ids[row]! * columns + c]!;
  }
  return out;
}

/** Adds row r of dOut [ids.length, columns] to row ids[r] of dTable [entries, columns], in place. */
export function embeddingScatterAddReference(
  dOut: ArrayLike<number>,
  ids: ArrayLike<number>,
  dTable: Float64Array,
  columns: number,
): void {
  for (let row = 0; row < ids.length; row++) {
    for (let c = 0; c < columns; c++) dTable[ids[row]! * columns + c]! += dOut[row * columns + c]!;
  }
}
