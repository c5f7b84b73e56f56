/**
 * Values of templates, as Python has them: whole numbers are `bigint`, others `number`; texts are strings, and
 * dictionaries maps.
 *
 * @module
 */

import { grow, spend } from "./budget.ts";
import { TemplateError, UnsupportedError } from "./errors.ts";

/** A key of a dictionary. */
export type Key = string | bigint;

/** A dictionary. */
export type Dict = ReadonlyMap<Key, Value>;

/** Arguments of a call. */
export interface Given {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** A function. */
export type Call = (given: Given) => Value;

/** A value. */
export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | Items
  | Dict
  | Undefined
  | Namespace
  | Markup
  | Call
  | Loop;

/** What holds other values in order. A generator can be gone through once. */
export class Items {
  readonly kind: "list" | "tuple" | "range" | "generator" | `dict_${"keys" | "values" | "items"}`;
  readonly all: readonly Value[];
  /** How a range is written. */
  readonly written: string;
  #at = 0;

  constructor(all: readonly Value[], kind: Items["kind"] = "list", written = "") {
    this.all = all;
    this.kind = kind;
    this.written = written;
  }

  /** Of a generator, the next item; `undefined` after the last. */
  next(): Value | undefined {
    return this.all[this.#at++];
  }

  /** Of a generator, all that are left; none are then. */
  rest(): readonly Value[] {
    const rest = this.all.slice(this.#at);
    this.#at = this.all.length;
    return rest;
  }

  /** A list or tuple of other items. */
  like(all: readonly Value[]): Items {
    return new Items(all, this.kind);
  }

  /** A list or a tuple: what can be put together, cut and written as JSON. */
  get isPlain(): boolean {
    return this.kind === "list" || this.kind === "tuple";
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

/** What a loop says of itself. Its items are found one by one, as what it does may decide on those that follow. */
export class Loop {
  index0 = -1;
  previous: Value | undefined;
  current: Value | undefined;
  readonly #ahead: Value[] = [];
  readonly #next: () => Value | undefined;

  constructor(next: () => Value | undefined) {
    this.#next = next;
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
    if (this.#ahead.length === 0) this.#look();
    return this.#ahead[0];
  }

  get length(): number {
    while (this.#look());
    return this.index0 + 1 + this.#ahead.length;
  }

  #look(): boolean {
    const value = this.#next();
    if (value !== undefined) this.#ahead.push(value);
    return value !== undefined;
  }
}

/** Throws what Python would. */
export function fail(message: string): never {
  throw new TemplateError(message);
}

/** What JSON holds, as a value. */
export function fromJson(value: unknown, depth = 0): Value {
  spend(1);
  if (depth > 100) throw new UnsupportedError("data more than 100 deep");
  if (value === null || typeof value === "boolean" || typeof value === "bigint") return value;
  if (typeof value === "string") {
    spend(value.length);
    return value;
  }
  if (typeof value === "number") return Number.isSafeInteger(value) ? BigInt(value) : value;
  if (value instanceof Number) return Number(value);
  if (Array.isArray(value)) return new Items(value.map((item) => fromJson(item, depth + 1)));
  if (typeof value !== "object") throw new UnsupportedError(`a value of type ${typeof value}`);
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  return new Map(fields.map(([key, field]) => [key, fromJson(field, depth + 1)]));
}

/** Name of a value's type, as Python has it. */
export function typeOf(value: Value): string {
  if (value === null) return "NoneType";
  if (value instanceof Items) return value.kind;
  if (value instanceof Map) return "dict";
  const names: Readonly<Record<string, string>> = {
    ...{ boolean: "bool", bigint: "int", number: "float", string: "str", function: "function" },
  };
  return names[typeof value] ?? value.constructor.name;
}

/** True if a value counts as true. */
export function truthOf(value: Value): boolean {
  if (value instanceof Items) return value.kind === "generator" || value.all.length > 0;
  if (value instanceof Map) return value.size > 0;
  if (value instanceof Markup) return value.text !== "";
  if (value instanceof Loop) return value.length > 0;
  // A number that is none counts as true.
  return Number.isNaN(value) || Boolean(value) && !(value instanceof Undefined);
}

/** The items of a value. What can be gone through once is gone through. */
export function itemsOf(value: Value): readonly Value[] {
  const items = (() => {
    if (typeof value === "string") return [...value];
    if (value instanceof Items) return value.kind === "generator" ? value.rest() : value.all;
    if (value instanceof Map) return [...value.keys()];
    if (value instanceof Undefined) return [];
    if (value instanceof Markup || value instanceof Loop) {
      throw new UnsupportedError(`going through a ${typeOf(value)}`);
    }
    return fail(`'${typeOf(value)}' object is not iterable`);
  })();
  spend(items.length);
  return items;
}

/** Number of items, or of characters; `null` if a value has none. */
export function sizeOf(value: Value): number | null {
  if (typeof value === "string") return [...value].length;
  if (value instanceof Markup) return [...value.text].length;
  if (value instanceof Items) return value.kind === "generator" ? null : value.all.length;
  if (value instanceof Map) return value.size;
  if (value instanceof Loop) return value.length;
  return value instanceof Undefined ? 0 : null;
}

/** A number of any kind; a truth value is one. `null` if the value is none. */
export function numberOf(value: Value): bigint | number | null {
  if (typeof value === "boolean") return BigInt(value);
  return typeof value === "bigint" || typeof value === "number" ? value : null;
}

/** A value as a key: 1, 1.0 and True are one. */
export function keyOf(value: Value): Key {
  if (typeof value === "string") return value;
  const number = numberOf(value);
  if (typeof number === "bigint") return number;
  if (typeof number === "number" && Number.isInteger(number)) return BigInt(number);
  if (
    value instanceof Map || value instanceof Items && (value.kind === "list" || value.kind.startsWith("dict"))
  ) {
    return fail(`unhashable type: '${typeOf(value)}'`);
  }
  throw new UnsupportedError(`a key of type ${typeOf(value)}`);
}

/** A whole number for places and counts, as a number that loops can count to. */
export function integerOf(value: Value, what: string): number {
  const number = numberOf(value);
  if (typeof number !== "bigint") return fail(`${what} must be an integer, not ${typeOf(value)}`);
  return Math.max(-(2 ** 31), Math.min(2 ** 31, Number(number)));
}

/** A text, and nothing else. */
export function stringOf(value: Value | undefined, what: string): string {
  return typeof value === "string" ? value : fail(`${what} must be str, not ${typeOf(value ?? null)}`);
}

/** Puts texts together, within limits. */
export function joined(separator: string, texts: readonly string[]): string {
  grow(texts.reduce((sum, text) => sum + text.length + separator.length, 0));
  return texts.join(separator);
}

/** Arguments by their names. */
export type Bound = Readonly<Record<string, Value | undefined>>;

/**
 * Binds arguments to the names of parameters, as Python does.
 *
 * @param name What is called.
 * @param parameters Names in order, with spaces between; those with a `?` may be left out.
 * @param given The arguments.
 */
export function bind(name: string, parameters: string, { positional, named }: Given): Bound {
  const bound: Record<string, Value | undefined> = {};
  const all = parameters === "" ? [] : parameters.split(" ");
  const names = all.map((parameter) => parameter.replace("?", ""));
  if (positional.length > names.length) return fail(`${name}() takes at most ${names.length} arguments`);
  positional.forEach((value, i) => bound[names[i]!] = value);
  for (const [key, value] of named) {
    if (!names.includes(key)) return fail(`${name}() got an unexpected keyword argument '${key}'`);
    if (bound[key] !== undefined) return fail(`${name}() got multiple values for argument '${key}'`);
    bound[key] = value;
  }
  const missing = all.find((parameter) => !parameter.endsWith("?") && bound[parameter] === undefined);
  return missing === undefined ? bound : fail(`${name}() missing 1 required argument: '${missing}'`);
}
