/**
 * Tensors that are made when they are asked for.
 *
 * @module
 */

import type { NamedArray } from "../model/gpt2.ts";

/** How tensors are made. */
export interface LazySource {
  /** Makes one. */
  readonly make: (name: string) => NamedArray;
  /** Its shape; without it, the tensor is made to see it. */
  readonly shape?: (name: string) => readonly number[];
  /** Its values in order, piece by piece, each of which holds until the next one is asked for. */
  readonly pieces?: (name: string) => Iterable<Float32Array>;
  /** True if what `make` gives is the caller's alone. @default {false} */
  readonly fresh?: boolean;
}

/** A map that knows names and makes an array at each `get` and each turn of a loop; nothing is kept. */
export class LazyArrays implements ReadonlyMap<string, NamedArray> {
  readonly #names: ReadonlySet<string>;
  readonly #source: LazySource;

  constructor(names: Iterable<string>, source: LazySource) {
    this.#names = new Set(names);
    this.#source = source;
  }

  /** True if what `get` gives is the caller's alone. */
  get fresh(): boolean {
    return this.#source.fresh === true;
  }

  /** Shapes by name. */
  shapes(): ReadonlyMap<string, readonly number[]> {
    const { make, shape = (name) => make(name).shape } = this.#source;
    return new Map([...this.#names].map((name) => [name, shape(name)]));
  }

  /** Values of a tensor in order, piece by piece. */
  pieces(name: string): Iterable<Float32Array> {
    const { make, pieces = (name) => [make(name).data] } = this.#source;
    return pieces(name);
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
