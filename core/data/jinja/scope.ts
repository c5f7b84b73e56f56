/**
 * Names and their values.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { Undefined, type Value } from "./values.ts";

/** What can be read at a place of a template: its own names, and those around it. */
export class Scope {
  readonly #values = new Map<string, Value>();
  readonly #outer: Scope | null;

  /** @param outer What is around it. */
  constructor(outer: Scope | null = null) {
    this.#outer = outer;
  }

  get(name: string): Value {
    for (let scope: Scope | null = this as Scope; scope !== null; scope = scope.#outer) {
      const value = scope.#values.get(name);
      if (value !== undefined) return value;
    }
    if (name === "self" || name === "super" || name === "lipsum") throw new UnsupportedError(`"${name}"`);
    return new Undefined(`'${name}'`);
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value);
  }

  inner(): Scope {
    return new Scope(this);
  }
}
