/**
 * Tensors of any map without their values in memory: shapes, and values piece by piece.
 *
 * @module
 */

import type { NamedArrays } from "./named_arrays.ts";
import { LazyArrays } from "./lazy_arrays.ts";
import { StoredTensors } from "./stored_tensors.ts";

/** A tensor that may still be on disk. */
export interface StreamedArray {
  /** Its shape. */
  readonly shape: readonly number[];
  /**
   * Its values in order. A piece holds until the next one is asked for.
   *
   * @param unit Each piece is a multiple of so many values, and the tensor too. @default {1}
   */
  readonly pieces: (unit?: number) => Iterable<Float32Array>;
  /** Where it lies, for messages; left out where nobody knows. */
  readonly from?: string | undefined;
}

/** Shapes by name. Of files only the headers are looked at. */
export function shapesOf(tensors: NamedArrays): ReadonlyMap<string, readonly number[]> {
  return tensors instanceof StoredTensors || tensors instanceof LazyArrays
    ? tensors.shapes()
    : new Map([...tensors].map(([name, { shape }]) => [name, shape]));
}

/** A tensor to be read piece by piece; `undefined` if there is none of this name. */
export function streamed(tensors: NamedArrays, name: string): StreamedArray | undefined {
  if (tensors instanceof StoredTensors || tensors instanceof LazyArrays) {
    const shape = tensors.shape(name);
    return shape && { shape, pieces: (unit) => tensors.pieces(name, unit), from: tensors.from(name) };
  }
  const shape = tensors.get(name)?.shape;
  // Asked for again when its turn comes: values that are held here would lie beside those of all others.
  return shape && {
    shape,
    *pieces() {
      yield tensors.get(name)!.data;
    },
  };
}

/** All tensors, each asked for once. */
export function* streamedEntries(
  tensors: NamedArrays,
): Generator<[name: string, array: StreamedArray], void> {
  if (tensors instanceof StoredTensors || tensors instanceof LazyArrays) {
    for (const name of tensors.keys()) yield [name, streamed(tensors, name)!];
  } else {
    for (const [name, { shape, data }] of tensors) yield [name, { shape, pieces: () => [data] }];
  }
}

/**
 * Values of a tensor as the bytes of f32, piece by piece, each of its own.
 *
 * @param tensors The tensors.
 * @param name Its name.
 * @returns `null` if there is none of this name.
 */
export function streamedPieces(
  tensors: NamedArrays,
  name: string,
): Iterable<Uint8Array<ArrayBuffer>> | null {
  const found = streamed(tensors, name);
  if (found === undefined) return null;
  const { pieces } = found;
  return (function* () {
    for (const { buffer, byteOffset, byteLength } of pieces()) {
      yield new Uint8Array(buffer, byteOffset, byteLength).slice();
    }
  })();
}
