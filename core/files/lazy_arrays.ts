/**
 * Tensors that are made when they are asked for.
 *
 * @module
 */

import type { NamedArray } from "./named_arrays.ts";

/** How tensors are made. */
export interface LazySource {
  /** Makes one. */
  readonly make: (name: string) => NamedArray;
  /** Its shape. */
  readonly shape: (name: string) => readonly number[];
  /** Its values in order, in pieces that are multiples of `unit`, each of which holds until the next one is asked for. */
  readonly pieces: (name: string, unit: number) => Iterable<Float32Array>;
  /** Where it lies, for messages. */
  readonly from?: (name: string) => string | undefined;
}

/** A map that knows names and makes an array at each `get` and each turn of a loop; nothing is kept. */
export class LazyArrays implements ReadonlyMap<string, NamedArray> {
  readonly #names: ReadonlySet<string>;
  readonly #source: LazySource;

  constructor(names: Iterable<string>, source: LazySource) {
    this.#names = new Set(names);
    this.#source = source;
  }

  /** Shape of a tensor; `undefined` if there is none of this name. */
  shape(name: string): readonly number[] | undefined {
    return this.has(name) ? this.#source.shape(name) : undefined;
  }

  /** Shapes by name. */
  shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map([...this.#names].map((name) => [name, this.#source.shape(name)]));
  }

  /** Where a tensor lies, for messages; `undefined` where nobody knows. */
  from(name: string): string | undefined {
    return this.#source.from?.(name);
  }

  /** Values of a tensor in order, in pieces that are multiples of `unit`. */
  pieces(name: string, unit = 1): Iterable<Float32Array> {
    return this.#source.pieces(name, unit);
  }

  get size(): number {
    return this.#names.size;
  }

  has(name: string): boolean {
    return this.#names.has(name);
  }

  get(name: string): NamedArray | undefined {
    return this.has(name) ? this.#source.make(name) : undefined;
  }

  keys(): MapIterator<string> {
    return this.#names.keys();
  }

  *values(): MapIterator<NamedArray> {
    for (const name of this.#names) yield this.#source.make(name);
  }

  *entries(): MapIterator<[string, NamedArray]> {
    for (const name of this.#names) yield [name, this.#source.make(name)];
  }

  [Symbol.iterator](): MapIterator<[string, NamedArray]> {
    return this.entries();
  }

  forEach(callback: (array: NamedArray, name: string, all: ReadonlyMap<string, NamedArray>) => void): void {
    for (const [name, array] of this) callback(array, name, this);
  }
}
