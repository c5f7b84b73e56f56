/**
 * Values of templates, as Python has them: whole numbers are `bigint`, others `number`; texts are strings.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";

/** A value. */
export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | List
  | Tuple
  | Dict
  | Range
  | View
  | Once
  | Undefined
  | Namespace
  | Markup
  | Callable
  | Loop;

/** What limits a run: everything that makes or walks through something tells it first. */
export interface Budget {
  /**
   * Takes note of so much work.
   *
   * @param amount Characters or items.
   * @throws {RangeError} If it is too much, or too long ago that the run began.
   */
  spend(amount: number): void;
  /** Refuses a text or list of more than the largest size. */
  checkSize(size: number): void;
}

/** A list. Templates cannot change one. */
export class List {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** A tuple; those of `groupby` have names for their two items. */
export class Tuple {
  readonly items: readonly Value[];
  readonly names: readonly string[];
  constructor(items: readonly Value[], names: readonly string[] = []) {
    this.items = items;
    this.names = names;
  }
}

/** What keys of equal value have in common: 1, 1.0 and True are one key. */
function keyOf(value: Value): string | null {
  if (typeof value === "string") return `s${value}`;
  if (typeof value === "boolean") return `n${Number(value)}`;
  if (typeof value === "bigint") return `n${value}`;
  if (typeof value === "number") return `n${Number.isInteger(value) ? BigInt(value) : value}`;
  if (value === null) return "none";
  if (value instanceof Undefined) return "undefined";
  if (value instanceof Range) return `r${value.items}`;
  if (!(value instanceof Tuple)) return null;
  const keys = value.items.map(keyOf);
  return keys.includes(null) ? null : `t${JSON.stringify(keys)}`;
}

/** A dictionary, in the order of its keys. */
export class Dict {
  readonly #entries = new Map<string, readonly [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.put(key, value);
  }

  /** For whoever makes it: the first of equal keys stays, with the last value. */
  put(key: Value, value: Value): void {
    const name = keyOf(key);
    if (name === null) throw new TemplateError("a key must be hashable");
    this.#entries.set(name, [this.#entries.get(name)?.[0] ?? key, value]);
  }

  get(key: Value): Value | undefined {
    const name = keyOf(key);
    if (name === null) throw new TemplateError("a key must be hashable");
    return this.#entries.get(name)?.[1];
  }

  get size(): number {
    return this.#entries.size;
  }

  get entries(): (readonly [Value, Value])[] {
    return [...this.#entries.values()];
  }

  get keys(): Value[] {
    return this.entries.map(([key]) => key);
  }
}

/** Numbers of a range. */
export class Range {
  readonly start: bigint;
  readonly step: bigint;
  readonly stop: bigint;
  readonly length: number;
  constructor(start: bigint, stop: bigint, step: bigint) {
    this.start = start;
    this.stop = stop;
    this.step = step;
    const span = step > 0n ? stop - start : start - stop;
    const size = step > 0n ? step : -step;
    this.length = span <= 0n ? 0 : Number((span + size - 1n) / size);
  }

  get items(): Value[] {
    return Array.from({ length: this.length }, (_, i) => this.start + BigInt(i) * this.step);
  }
}

/** Keys, values or items of a dictionary. */
export class View {
  readonly kind: "keys" | "values" | "items";
  readonly dict: Dict;
  constructor(kind: View["kind"], dict: Dict) {
    this.kind = kind;
    this.dict = dict;
  }

  get items(): Value[] {
    if (this.kind === "items") return this.dict.entries.map((entry) => new Tuple(entry));
    return this.dict.entries.map(([key, value]) => this.kind === "keys" ? key : value);
  }
}

/** What can be gone through once: the result of `map`, `select` and the like. */
export class Once {
  readonly #items: readonly Value[];
  #at = 0;
  constructor(items: readonly Value[]) {
    this.#items = items;
  }

  /** The next item; `undefined` after the last. */
  next(): Value | undefined {
    return this.#items[this.#at++];
  }

  /** All that are left; none are then. */
  rest(): readonly Value[] {
    const rest = this.#items.slice(this.#at);
    this.#at = this.#items.length;
    return rest;
  }
}

/** What a name, a key or an attribute that is not there has for a value. */
export class Undefined {
  readonly hint: string;
  constructor(hint: string) {
    this.hint = hint;
  }
}

/** Fields that a template may set. */
export class Namespace {
  readonly fields = new Map<string, Value>();
}

/** Text that counts as escaped: it can be written, and little else. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** Arguments of a call. */
export interface Given {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** A function. */
export class Callable {
  readonly name: string;
  readonly call: (given: Given) => Value;
  constructor(name: string, call: (given: Given) => Value) {
    this.name = name;
    this.call = call;
  }
}

/** What a loop says of itself. */
export class Loop {
  index0 = -1;
  readonly depth0: number;
  previous: Value | undefined;
  current: Value | undefined;
  /** What `changed` was last given. */
  changed: readonly Value[] | null = null;
  /** Looked at ahead of its turn. */
  readonly #ahead: Value[] = [];
  readonly #next: () => Value | undefined;
  readonly #known: number | null;

  constructor(next: () => Value | undefined, length: number | null, depth0: number) {
    this.#next = next;
    this.#known = length;
    this.depth0 = depth0;
  }

  /** Goes on; `undefined` after the last. */
  advance(): Value | undefined {
    const value = this.#ahead.length > 0 ? this.#ahead.shift() : this.#next();
    if (value === undefined) return undefined;
    this.index0++;
    this.previous = this.current;
    return this.current = value;
  }

  get following(): Value | undefined {
    if (this.#ahead.length === 0) {
      const value = this.#next();
      if (value !== undefined) this.#ahead.push(value);
    }
    return this.#ahead[0];
  }

  get length(): number {
    if (this.#known !== null) return this.#known;
    for (let value = this.#next(); value !== undefined; value = this.#next()) this.#ahead.push(value);
    return this.index0 + 1 + this.#ahead.length;
  }
}

/** What JSON holds, as a value. */
export function fromJson(value: unknown, budget: Budget, depth = 0): Value {
  budget.spend(1);
  if (depth > 100) throw new UnsupportedError("data more than 100 deep");
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") {
    budget.spend(value.length);
    return value;
  }
  if (typeof value === "number") {
    return Number.isInteger(value) && Math.abs(value) < 2 ** 53 ? BigInt(value) : value;
  }
  if (typeof value === "bigint") return value;
  if (Array.isArray(value)) return new List(value.map((item) => fromJson(item, budget, depth + 1)));
  if (value instanceof Number) return Number(value);
  if (typeof value !== "object") throw new UnsupportedError(`a value of type ${typeof value}`);
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  return new Dict(fields.map(([key, field]) => [key, fromJson(field, budget, depth + 1)]));
}

/** Name of a value's type, as Python has it. */
export function typeOf(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (typeof value === "string") return "str";
  if (value instanceof Dict) return "dict";
  if (value instanceof View) return `dict_${value.kind}`;
  return value.constructor.name.toLowerCase();
}

/** True if a value counts as true. */
export function truthOf(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === "string") return value !== "";
  if (typeof value === "number") return value !== 0;
  if (typeof value === "object") {
    if (value instanceof List || value instanceof Tuple) return value.items.length > 0;
    if (value instanceof Dict) return value.size > 0;
    if (value instanceof View) return value.dict.size > 0;
    if (value instanceof Range) return value.length > 0;
    if (value instanceof Markup) return value.text !== "";
    if (value instanceof Loop) return value.length > 0;
    return true;
  }
  return Boolean(value);
}

/** The items of a value; `null` if it has none. What can be gone through once is gone through. */
export function itemsOf(value: Value, budget: Budget): readonly Value[] | null {
  const items = untoldItems(value);
  if (items !== null) budget.spend(items.length);
  return items;
}

function untoldItems(value: Value): readonly Value[] | null {
  if (typeof value === "string") return [...value];
  if (value instanceof List || value instanceof Tuple || value instanceof Range || value instanceof View) {
    return value.items;
  }
  if (value instanceof Dict) return value.keys;
  if (value instanceof Once) return value.rest();
  if (value instanceof Undefined) return [];
  if (value instanceof Markup) throw new UnsupportedError("going through escaped text");
  if (value instanceof Loop) throw new UnsupportedError("going through a loop");
  return null;
}

/** As `itemsOf`, of what must have some. */
export function requireItems(value: Value, budget: Budget): readonly Value[] {
  return itemsOf(value, budget) ?? fail(`'${typeOf(value)}' object is not iterable`);
}

/** Number of items, or of characters; `null` if a value has none. */
export function sizeOf(value: Value): number | null {
  if (typeof value === "string") return [...value].length;
  if (value instanceof List || value instanceof Tuple) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Range || value instanceof Loop) return value.length;
  if (value instanceof Undefined) return 0;
  if (value instanceof Markup) return [...value.text].length;
  return null;
}

/** Throws what Python would. */
export function fail(message: string): never {
  throw new TemplateError(message);
}

/** A number of any kind; a truth value is one. `null` if the value is none. */
export function numberOf(value: Value): bigint | number | null {
  if (typeof value === "boolean") return BigInt(value);
  return typeof value === "bigint" || typeof value === "number" ? value : null;
}

/** A whole number, for places and counts. */
export function integerOf(value: Value, what: string): bigint {
  const number = numberOf(value);
  return typeof number === "bigint" ? number : fail(`${what} must be an integer, not ${typeOf(value)}`);
}

/** As `integerOf`, as a number that loops can count to. */
export function smallInteger(value: Value, what: string): number {
  const number = integerOf(value, what);
  const bound = BigInt(2 ** 31);
  return Number(number > bound ? bound : number < -bound ? -bound : number);
}
