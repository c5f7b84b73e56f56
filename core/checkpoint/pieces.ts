/**
 * Tensors of any map: their shapes without their values, and their values piece by piece.
 *
 * @module
 */

import type { NamedArray, NamedArrays } from "../model/gpt2.ts";
import { LazyArrays } from "./lazy_arrays.ts";
import { StoredTensors } from "./stored_tensors.ts";

/** Shapes by name; of tensors that are read or made when they are asked for, none is where that can be. */
export function shapesOf(tensors: NamedArrays): ReadonlyMap<string, readonly number[]> {
  return tensors instanceof StoredTensors || tensors instanceof LazyArrays
    ? tensors.shapes()
    : new Map([...tensors].map(([name, { shape }]) => [name, shape]));
}

/**
 * Values of a tensor in order. A piece holds until the next one is asked for.
 *
 * @param tensors Where it is.
 * @param name One of their names.
 */
export function piecesOf(tensors: NamedArrays, name: string): Iterable<Float32Array> {
  return tensors instanceof StoredTensors || tensors instanceof LazyArrays
    ? tensors.pieces(name)
    : [tensors.get(name)!.data];
}

/**
 * Frees the values of a tensor that was read from a file for the caller alone; those of other maps stay. The
 * garbage collector would get to it too, but often not before the next one is read.
 *
 * @param tensors Where the tensor came from.
 * @param data Its values; empty afterwards if they are freed.
 */
export function letGo(tensors: ReadonlyMap<string, NamedArray>, { buffer }: Float32Array): void {
  const fresh = tensors instanceof StoredTensors || (tensors instanceof LazyArrays && tensors.fresh);
  if (fresh && buffer instanceof ArrayBuffer) buffer.transfer(0);
}
