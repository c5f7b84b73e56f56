/**
 * Items, attributes and slices of values.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { isEqual } from "./operations.ts";
import { methodOf } from "./methods.ts";
import {
  type Budget,
  Callable,
  Dict,
  fail,
  List,
  Loop,
  Markup,
  Namespace,
  numberOf,
  Range,
  smallInteger,
  Tuple,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";

/** What is missing. */
function missing(value: Value, key: Value): Undefined {
  return new Undefined(`'${typeOf(value)} object' has no attribute '${String(key)}'`);
}

/** The item of a key or place; `undefined` if there is none. */
function ownItem(value: Value, key: Value): Value | undefined {
  if (value instanceof Dict) {
    if (key instanceof List || key instanceof Dict) return undefined;
    return value.get(key);
  }
  const place = numberOf(key);
  if (typeof place !== "bigint") return undefined;
  const items = typeof value === "string"
    ? [...value]
    : value instanceof List || value instanceof Tuple || value instanceof Range
    ? value.items
    : null;
  return items?.at(smallInteger(place, "an index"));
}

function loopAttribute(loop: Loop, name: string, budget: Budget): Value | undefined {
  const whole = (value: number) => BigInt(value);
  switch (name) {
    case "index":
      return whole(loop.index0 + 1);
    case "index0":
      return whole(loop.index0);
    case "revindex":
      return whole(loop.length - loop.index0);
    case "revindex0":
      return whole(loop.length - loop.index0 - 1);
    case "first":
      return loop.index0 === 0;
    case "last":
      return loop.following === undefined;
    case "length":
      return whole(loop.length);
    case "depth":
      return whole(loop.depth0 + 1);
    case "depth0":
      return whole(loop.depth0);
    case "previtem":
      return loop.previous === undefined ? new Undefined("there is no previous item") : loop.previous;
    case "nextitem":
      return loop.following === undefined ? new Undefined("there is no next item") : loop.following;
    case "cycle":
      return new Callable(
        "cycle",
        ({ positional }) =>
          positional.length === 0
            ? fail("no items for cycling given")
            : positional[loop.index0 % positional.length]!,
      );
    case "changed":
      return new Callable("changed", ({ positional }) => {
        const before = loop.changed;
        const isSame = before !== null && isEqual(new Tuple(before), new Tuple(positional), budget);
        loop.changed = positional;
        return !isSame;
      });
    default:
      return undefined;
  }
}

/** An attribute of a value that is not among its items; `undefined` if it has none. */
function ownAttribute(value: Value, name: string, budget: Budget): Value | undefined {
  if (value instanceof Namespace) {
    if (name.startsWith("_")) throw new UnsupportedError(`".${name}" of a namespace`);
    return value.fields.get(name);
  }
  if (value instanceof Loop) return loopAttribute(value, name, budget);
  if (value instanceof Markup) throw new UnsupportedError(`".${name}" of escaped text`);
  if (value instanceof Callable) throw new UnsupportedError(`".${name}" of a function`);
  return methodOf(value, name, budget);
}

/** `value[key]`: an item, or else an attribute of that name. */
export function itemOf(value: Value, key: Value, budget: Budget): Value {
  budget.spend(1);
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  if (value instanceof Markup) throw new UnsupportedError("characters of escaped text");
  if (typeof value === "string") budget.spend(value.length);
  const item = ownItem(value, key);
  if (item !== undefined) return item;
  if (typeof key !== "string") return missing(value, key);
  const attribute = ownAttribute(value, key, budget);
  return attribute === undefined ? missing(value, key) : attribute;
}

/** `value.name`: an attribute, or else an item of that name. */
export function attributeOf(value: Value, name: string, budget: Budget): Value {
  budget.spend(1);
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const attribute = ownAttribute(value, name, budget);
  if (attribute !== undefined) return attribute;
  const item = ownItem(value, name);
  return item === undefined ? missing(value, name) : item;
}

/** `value[start:stop:step]`. */
export function sliceOf(value: Value, parts: readonly (Value | null)[], budget: Budget): Value {
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const isText = typeof value === "string";
  if (!(isText || value instanceof List || value instanceof Tuple)) {
    throw new UnsupportedError(`a slice of ${typeOf(value)}`);
  }
  const all = isText ? [...value] : value.items;
  budget.spend(all.length);
  const numbers = parts.map((part) => part === null ? null : smallInteger(part, "slice indices"));
  const step = numbers[2] ?? 1;
  if (step === 0) return fail("slice step cannot be zero");
  const last = all.length;
  const place = (number: number | null | undefined, fallback: number) => {
    if (number === null || number === undefined) return fallback;
    const at = number < 0 ? number + last : number;
    return step > 0 ? Math.min(Math.max(at, 0), last) : Math.min(Math.max(at, -1), last - 1);
  };
  const start = place(numbers[0], step > 0 ? 0 : last - 1);
  const stop = place(numbers[1], step > 0 ? last : -1);
  const taken: Value[] = [];
  for (let at = start; step > 0 ? at < stop : at > stop; at += step) taken.push(all[at]!);
  if (isText) return taken.join("");
  return value instanceof List ? new List(taken) : new Tuple(taken);
}
