/**
 * Operators, items, attributes and tests of values, as Python and jinja2 have them.
 *
 * @module
 */

import { grow, spend } from "./budget.ts";
import { UnsupportedError } from "./errors.ts";
import { FILTER_NAMES, TEST_NAMES } from "./names.ts";
import { isLower, isUpper, methodOf } from "./methods.ts";
import {
  bind,
  fail,
  type Given,
  integerOf,
  Items,
  itemsOf,
  joined,
  keyOf,
  Loop,
  Markup,
  Namespace,
  numberOf,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { compareText, escaped, formatPercent, textOf } from "./writing.ts";

/** Deepest nesting that is compared. */
const MAX_DEPTH = 100;
/** Largest whole number, in bits. */
const MAX_BITS = 4096;

function look(depth: number): void {
  spend(1);
  if (depth > MAX_DEPTH) throw new UnsupportedError(`comparing values more than ${MAX_DEPTH} deep`);
}

/** True if two values are equal. */
export function isEqual(a: Value, b: Value, depth = 0): boolean {
  look(depth);
  const [x, y] = [numberOf(a), numberOf(b)];
  // Whole numbers and others are compared by value here, not by type.
  // deno-lint-ignore eqeqeq
  if (x !== null && y !== null) return x == y;
  if (a instanceof Undefined && b instanceof Undefined) return true;
  const [left, right] = [a, b].map((value) => value instanceof Markup ? value.text : value) as [Value, Value];
  if (typeof left === "string" && typeof right === "string") {
    spend(Math.min(left.length, right.length));
    return left === right;
  }
  if (a instanceof Items && b instanceof Items) {
    if (a.kind.startsWith("dict") && b.kind.startsWith("dict")) {
      throw new UnsupportedError("comparing views of mappings");
    }
    if (a.kind === "generator" || a.kind !== b.kind || a.all.length !== b.all.length) return a === b;
    return a.all.every((item, i) => isEqual(item, b.all[i]!, depth + 1));
  }
  if (!(a instanceof Map && b instanceof Map)) return a === b;
  return a.size === b.size && [...a].every(([key, value]) => {
    const other = b.get(key);
    return other !== undefined && isEqual(value, other, depth + 1);
  });
}

/** Negative, 0 or positive, as the first of two comes before, with or after the second. */
export function order(a: Value, b: Value, depth = 0): number {
  look(depth);
  const [x, y] = [numberOf(a), numberOf(b)];
  // deno-lint-ignore eqeqeq
  if (x !== null && y !== null) return x < y ? -1 : x == y ? 0 : x > y ? 1 : NaN;
  if (typeof a === "string" && typeof b === "string") {
    spend(Math.min(a.length, b.length));
    return compareText(a, b);
  }
  if (a instanceof Markup || b instanceof Markup || a instanceof Items && !a.isPlain) {
    throw new UnsupportedError(`ordering ${typeOf(a)} and ${typeOf(b)}`);
  }
  if (!(a instanceof Items && b instanceof Items && a.kind === b.kind)) {
    return fail(`'<' not supported between instances of '${typeOf(a)}' and '${typeOf(b)}'`);
  }
  const at = a.all.findIndex((item, i) => i >= b.all.length || !isEqual(item, b.all[i]!, depth + 1));
  if (at < 0 || at >= b.all.length) return a.all.length - b.all.length;
  return order(a.all[at]!, b.all[at]!, depth + 1);
}

function isIn(value: Value, container: Value): boolean {
  if (container instanceof Markup || value instanceof Markup) {
    throw new UnsupportedError("looking into escaped text");
  }
  if (typeof container === "string") {
    if (typeof value !== "string") return fail(`'in <string>' requires str, not ${typeOf(value)}`);
    spend(container.length);
    return container.includes(value);
  }
  if (container instanceof Map) {
    return value !== null && !(value instanceof Undefined) && container.has(keyOf(value));
  }
  if (container instanceof Items && ["generator", "dict_keys"].includes(container.kind)) {
    throw new UnsupportedError(`looking into a ${container.kind} (use | list)`);
  }
  if (container instanceof Loop) return fail("argument of type 'loop' is not iterable");
  return itemsOf(container).some((item) => item === value || isEqual(item, value));
}

/** Whether a comparison holds. */
export function compare(operator: string, a: Value, b: Value): boolean {
  switch (operator) {
    case "==":
    case "!=":
      return isEqual(a, b) === (operator === "==");
    case "in":
    case "not in":
      return isIn(a, b) === (operator === "in");
    case "<":
      return order(a, b) < 0;
    case "<=":
      return order(a, b) <= 0;
    case ">":
      return order(a, b) > 0;
    default:
      return order(a, b) >= 0;
  }
}

/** The result of an operator between two values. */
export function binary(operator: string, a: Value, b: Value): Value {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) {
    return typeof x === "bigint" && typeof y === "bigint" ? whole(operator, x, y) : fraction(operator, x, y);
  }
  if (a instanceof Markup || b instanceof Markup) {
    const [x, y] = [a, b].map((value) => typeof value === "string" ? escaped(value) : value);
    if (operator === "+" && x instanceof Markup && y instanceof Markup) {
      return new Markup(joined("", [x.text, y.text]));
    }
    throw new UnsupportedError(`"${operator}" with escaped text`);
  }
  if (operator === "%" && typeof a === "string") return formatPercent(a, b);
  if (operator === "+" && typeof a === "string" && typeof b === "string") {
    grow(a.length + b.length);
    return a + b;
  }
  if (operator === "+" && a instanceof Items && b instanceof Items && a.isPlain && a.kind === b.kind) {
    grow(a.all.length + b.all.length);
    return a.like([...a.all, ...b.all]);
  }
  if (operator === "*" && typeof y === "bigint") return repeated(a, y);
  if (operator === "*" && typeof x === "bigint") return repeated(b, x);
  if ([a, b].some((value) => value instanceof Items && value.kind.startsWith("dict"))) {
    throw new UnsupportedError(`"${operator}" of views of mappings`);
  }
  return fail(`unsupported operand type(s) for ${operator}: '${typeOf(a)}' and '${typeOf(b)}'`);
}

function repeated(value: Value, count: bigint): Value {
  const times = Math.max(0, Number(count));
  const size = typeof value === "string"
    ? value.length
    : value instanceof Items && value.isPlain
    ? value.all.length
    : -1;
  if (size < 0) return fail(`can't multiply sequence by non-int of type '${typeOf(value)}'`);
  if (size > 0) grow(size * times);
  if (typeof value === "string") return size === 0 ? "" : value.repeat(times);
  const { all } = value as Items;
  return (value as Items).like(size === 0 ? [] : Array.from({ length: times }, () => all).flat());
}

/** A whole number as a float, which must hold it exactly where that decides about the result. */
function floatOf(value: bigint | number): number {
  const float = Number(value);
  if (typeof value === "bigint" && (!Number.isFinite(float) || BigInt(float) !== value)) {
    throw new UnsupportedError("floats of whole numbers that they cannot hold");
  }
  return float;
}

function fraction(operator: string, x: bigint | number, y: bigint | number): number {
  const [a, b] = [floatOf(x), floatOf(y)];
  if (b === 0 && ["/", "//", "%"].includes(operator)) return fail("division by zero");
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "/":
      return a / b;
    default:
      throw new UnsupportedError(`"${operator}" of fractions`);
  }
}

function whole(operator: string, x: bigint, y: bigint): Value {
  if (y === 0n && ["/", "//", "%"].includes(operator)) return fail("division by zero");
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return bounded(x.toString(2).length + y.toString(2).length, () => x * y);
    case "/":
      return floatOf(x) / floatOf(y);
    case "**":
      if (y < 0n) throw new UnsupportedError("powers of fractions");
      return bounded(x.toString(2).length * Number(y), () => x ** y);
    default: {
      // The remainder has the sign of the divisor.
      const remainder = x % y;
      const moved = remainder !== 0n && (remainder < 0n) !== (y < 0n) ? remainder + y : remainder;
      return operator === "%" ? moved : (x - moved) / y;
    }
  }
}

function bounded(bits: number, make: () => bigint): bigint {
  if (bits > MAX_BITS) throw new UnsupportedError("a whole number of that size");
  return make();
}

/** A value with a sign before it. */
export function signed(operator: "-" | "+", value: Value): Value {
  const number = numberOf(value) ?? fail(`bad operand type for unary ${operator}: '${typeOf(value)}'`);
  return operator === "-" ? -number : number;
}

/** The item of a key or place; `undefined` if there is none. */
function ownItem(value: Value, key: Value): Value | undefined {
  if (value instanceof Map) {
    const hasNone = key === null || key instanceof Undefined || key instanceof Map || key instanceof Items;
    return hasNone ? undefined : value.get(keyOf(key));
  }
  const isPlace = typeof numberOf(key) === "bigint";
  if (typeof value === "string" && isPlace) {
    spend(value.length);
    return [...value].at(integerOf(key, "an index"));
  }
  const hasPlaces = value instanceof Items && (value.isPlain || value.kind === "range");
  return hasPlaces && isPlace ? value.all.at(integerOf(key, "an index")) : undefined;
}

function loopAttribute(loop: Loop, name: string): Value | undefined {
  const { index0, previous } = loop;
  switch (name) {
    case "index":
      return BigInt(index0 + 1);
    case "index0":
      return BigInt(index0);
    case "revindex":
      return BigInt(loop.length - index0);
    case "revindex0":
      return BigInt(loop.length - index0 - 1);
    case "first":
      return index0 === 0;
    case "last":
      return loop.following === undefined;
    case "length":
      return BigInt(loop.length);
    case "depth":
      return 1n;
    case "depth0":
      return 0n;
    case "previtem":
      return previous ?? (previous === null ? null : new Undefined("there is no previous item"));
    case "nextitem": {
      const { following } = loop;
      return following ?? (following === null ? null : new Undefined("there is no next item"));
    }
    case "cycle":
      return ({ positional }) => positional[index0 % positional.length] ?? fail("no items for cycling given");
    default:
      throw new UnsupportedError(`"loop.${name}"`);
  }
}

/** An attribute of a value that is not among its items; `undefined` if it has none. */
function ownAttribute(value: Value, name: string): Value | undefined {
  if (value instanceof Namespace && !name.startsWith("_")) return value.fields.get(name);
  if (value instanceof Loop) return loopAttribute(value, name);
  return methodOf(value, name);
}

/** `value[key]` is an item, or else an attribute of that name; `value.key` the other way round. */
export function memberOf(value: Value, key: Value, first: "item" | "attribute"): Value {
  spend(1);
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const item = () => ownItem(value, key);
  const attribute = () => typeof key === "string" ? ownAttribute(value, key) : undefined;
  for (const look of first === "item" ? [item, attribute] : [attribute, item]) {
    const found = look();
    if (found !== undefined) return found;
  }
  return new Undefined(`'${typeOf(value)} object' has no attribute '${String(key)}'`);
}

/** `value[start:stop:step]`. */
export function sliceOf(value: Value, parts: readonly (Value | null)[]): Value {
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  if (!(typeof value === "string" || value instanceof Items && value.isPlain)) {
    throw new UnsupportedError(`a slice of ${typeOf(value)}`);
  }
  const all = typeof value === "string" ? [...value] : value.all;
  spend(all.length);
  const [start, stop, step = 1] = parts.map((part) =>
    part === null ? undefined : integerOf(part, "slice indices")
  );
  if (step === 0) return fail("slice step cannot be zero");
  const place = (number: number | undefined, fallback: number) => {
    const at = number === undefined ? fallback : number < 0 ? number + all.length : number;
    return number === undefined
      ? at
      : step > 0
      ? Math.min(Math.max(at, 0), all.length)
      : Math.min(Math.max(at, -1), all.length - 1);
  };
  const end = place(stop, step > 0 ? all.length : -1);
  const taken: Value[] = [];
  for (let at = place(start, step > 0 ? 0 : all.length - 1); step > 0 ? at < end : at > end; at += step) {
    taken.push(all[at]!);
  }
  return typeof value === "string" ? taken.join("") : value.like(taken);
}

const isText = (value: Value) => typeof value === "string" || value instanceof Markup;
const isView = (value: Value) => value instanceof Items && value.kind.startsWith("dict");
const isMany = (value: Value) =>
  isText(value) || value instanceof Items || value instanceof Map || value instanceof Undefined;

const TESTS: Readonly<Record<string, (value: Value) => boolean>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => {
    if (value instanceof Undefined) throw new UnsupportedError('"callable" of what is undefined');
    return typeof value === "function";
  },
  defined: (value) => !(value instanceof Undefined),
  escaped: (value) => value instanceof Markup,
  even: (value) => isEqual(binary("%", value, 2n), 0n),
  false: (value) => value === false,
  filter: (value) => FILTER_NAMES.has(String(value)),
  float: (value) => typeof value === "number",
  integer: (value) => typeof value === "bigint",
  iterable: isMany,
  lower: (value) => isLower(textOf(value)),
  mapping: (value) => value instanceof Map,
  none: (value) => value === null,
  number: (value) => numberOf(value) !== null,
  odd: (value) => isEqual(binary("%", value, 2n), 1n),
  sequence: (value) =>
    isMany(value) && !isView(value) && !(value instanceof Items && value.kind === "generator"),
  string: isText,
  test: (value) => TEST_NAMES.has(String(value)),
  true: (value) => value === true,
  undefined: (value) => value instanceof Undefined,
  upper: (value) => isUpper(textOf(value)),
};

function isSame(a: Value, b: Value): boolean {
  // Python keeps small numbers once; what else is the same is a matter of its making.
  const isKept = (value: Value) =>
    value === null || typeof value === "boolean" ||
    typeof value === "bigint" && value >= -5n && value <= 256n;
  if (isKept(a) || isKept(b) || typeof a === "object" && typeof b === "object") return a === b;
  if (typeof a !== typeof b) return false;
  throw new UnsupportedError('"sameas" of such values');
}

const NAMED: Readonly<Record<string, string>> = {
  ...{
    eq: "==",
    equalto: "==",
    ne: "!=",
    gt: ">",
    greaterthan: ">",
    ge: ">=",
    lt: "<",
    lessthan: "<",
    le: "<=",
  },
  ...{ in: "in" },
};

/**
 * Whether a test holds.
 *
 * @throws {TemplateError} If there is no test of that name.
 */
export function runTest(name: string, value: Value, given: Given): boolean {
  if (Object.hasOwn(TESTS, name)) {
    bind(name, "", given);
    if (value instanceof Loop) throw new UnsupportedError(`"${name}" of a loop`);
    return TESTS[name]!(value);
  }
  const operator = NAMED[name] ?? name;
  if (![...Object.values(NAMED), "divisibleby", "sameas"].includes(operator)) {
    return fail(`No test named '${name}'`);
  }
  const { other } = bind(name, "other", given);
  if (given.named.size > 0) throw new UnsupportedError(`named arguments of the test "${name}"`);
  if (operator === "sameas") return isSame(value, other!);
  if (operator === "divisibleby") return isEqual(binary("%", value, other!), 0n);
  return compare(operator, value, other!);
}
