/**
 * Tensors that are made when they are asked for.
 *
 * @module
 */

import type { NamedArray } from "../model/gpt2.ts";

/** A map that knows names and makes an array at each `get` and each turn of a loop; nothing is kept. */
export class LazyArrays implements ReadonlyMap<string, NamedArray> {
  readonly #names: ReadonlySet<string>;
  readonly #make: (name: string) => NamedArray;

  constructor(names: Iterable<string>, make: (name: string) => NamedArray) {
    this.#names = new Set(names);
    this.#make = make;
  }

  get size(): number {
    return this.#names.size;
  }

  has(name: string): boolean {
    return this.#names.has(name);
  }

  get(name: string): NamedArray | undefined {
    return this.has(name) ? this.#make(name) : undefined;
  }

  keys(): MapIterator<string> {
    return this.#names.keys();
  }

  *values(): MapIterator<NamedArray> {
    for (const name of this.#names) yield this.#make(name);
  }

  *entries(): MapIterator<[string, NamedArray]> {
    for (const name of this.#names) yield [name, this.#make(name)];
  }

  [Symbol.iterator](): MapIterator<[string, NamedArray]> {
    return this.entries();
  }

  forEach(callback: (array: NamedArray, name: string, all: ReadonlyMap<string, NamedArray>) => void): void {
    for (const [name, array] of this) callback(array, name, this);
  }
}
