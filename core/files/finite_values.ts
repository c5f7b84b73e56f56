/**
 * Weights must be finite: one that is not makes every loss and every text worthless, far from where it lies.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import type { NamedArray } from "./named_arrays.ts";
import type { StreamedArray } from "./streaming.ts";

/** Values that are looked at together. */
const BLOCK = 4096;

/** Index of the first value that is not finite; -1 if all are. */
export function firstNotFinite(values: Float32Array): number {
  for (let start = 0; start < values.length; start += BLOCK) {
    const end = Math.min(values.length, start + BLOCK);
    // 0 times what is not finite is NaN, and stays so in a sum. No branch within a block: weights are many.
    let [a, b, c, d] = [0, 0, 0, 0];
    let i = start;
    for (; i + 3 < end; i += 4) {
      a += values[i]! * 0;
      b += values[i + 1]! * 0;
      c += values[i + 2]! * 0;
      d += values[i + 3]! * 0;
    }
    for (; i < end; i++) a += values[i]! * 0;
    if (a + b + c + d === 0) continue;
    for (i = start; i < end; i++) if (!Number.isFinite(values[i])) return i;
  }
  return -1;
}

/**
 * The pieces of a weight on their way to the adapter, each checked.
 *
 * @param name Name of the weight.
 * @param array The weight.
 * @param unit Each piece is a multiple of so many values.
 * @param action What cannot be done otherwise.
 * @throws {ModelFileError} At the first value that is not finite; says the weight, its file, and where in it.
 */
export function* finitePieces(
  name: string,
  array: StreamedArray,
  unit = 1,
  action = "load the model",
): Generator<Float32Array, void> {
  let first = 0;
  for (const piece of array.pieces(unit)) {
    const bad = firstNotFinite(piece);
    if (bad >= 0) throw notFinite(action, { name, index: first + bad, value: piece[bad]!, from: array.from });
    yield piece;
    first += piece.length;
  }
}

/**
 * Checks arrays in memory.
 *
 * @param action What cannot be done, such as "load the adapter".
 * @param arrays Arrays by name.
 * @param from Where they lie.
 * @throws {ModelFileError} If a value is not finite.
 */
export function requireFiniteValues(
  action: string,
  arrays: ReadonlyMap<string, NamedArray>,
  from?: string,
): void {
  for (const [name, { data }] of arrays) {
    const bad = firstNotFinite(data);
    if (bad >= 0) throw notFinite(action, { name, index: bad, value: data[bad]!, from });
  }
}

function notFinite(
  action: string,
  { name, index, value, from }: {
    readonly name: string;
    readonly index: number;
    readonly value: number;
    readonly from: string | undefined;
  },
): ModelFileError {
  return new ModelFileError(
    `Cannot ${action} as every weight must be finite: value ${index} of "${name}"${
      from === undefined ? "" : ` in ${from}`
    } is ${value}`,
  );
}
