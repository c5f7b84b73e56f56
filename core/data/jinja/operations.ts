/**
 * Operators, as Python has them.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { formatPercent } from "./formatting.ts";
import { compareText } from "./text.ts";
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
  Once,
  Range,
  requireItems,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
} from "./values.ts";

/** Deepest nesting that is compared. */
const MAX_DEPTH = 100;
/** Largest whole number that powers may give, in bits. */
const MAX_BITS = 4096;

/** True if two values are equal. */
export function isEqual(a: Value, b: Value, budget: Budget, depth = 0): boolean {
  budget.spend(1);
  if (depth > MAX_DEPTH) throw new UnsupportedError(`comparing values more than ${MAX_DEPTH} deep`);
  const [x, y] = [numberOf(a), numberOf(b)];
  // Whole numbers and others are compared by value here, not by type.
  // deno-lint-ignore eqeqeq
  if (x !== null && y !== null) return x == y;
  if (a instanceof Undefined || b instanceof Undefined) {
    return a instanceof Undefined && b instanceof Undefined;
  }
  const [left, right] = [a, b].map((value) => value instanceof Markup ? value.text : value) as [Value, Value];
  if (typeof left === "string" && typeof right === "string") {
    budget.spend(Math.min(left.length, right.length));
    return left === right;
  }
  const pairs = (p: readonly Value[], q: readonly Value[]) =>
    p.length === q.length && p.every((item, i) => isEqual(item, q[i]!, budget, depth + 1));
  if (a instanceof List && b instanceof List) return pairs(a.items, b.items);
  if (a instanceof Tuple && b instanceof Tuple) return pairs(a.items, b.items);
  if (a instanceof Range && b instanceof Range) return pairs(a.items, b.items);
  if (a instanceof Dict && b instanceof Dict) {
    return a.size === b.size && a.entries.every(([key, value]) => {
      const other = b.get(key);
      return other !== undefined && isEqual(value, other, budget, depth + 1);
    });
  }
  if (a instanceof View && b instanceof View) throw new UnsupportedError("comparing views of mappings");
  return a === b;
}

/** Negative, 0 or positive, as the first of two comes before, with or after the second. */
export function order(a: Value, b: Value, budget: Budget, depth = 0): number {
  budget.spend(1);
  if (depth > MAX_DEPTH) throw new UnsupportedError(`comparing values more than ${MAX_DEPTH} deep`);
  const [x, y] = [numberOf(a), numberOf(b)];
  // deno-lint-ignore eqeqeq
  if (x !== null && y !== null) return x < y ? -1 : x == y ? 0 : x > y ? 1 : NaN;
  if (typeof a === "string" && typeof b === "string") {
    budget.spend(Math.min(a.length, b.length));
    return compareText(a, b);
  }
  const bothLists = a instanceof List && b instanceof List || a instanceof Tuple && b instanceof Tuple;
  if (!bothLists) {
    if (a instanceof Markup || b instanceof Markup) throw new UnsupportedError("ordering escaped text");
    if (a instanceof View || b instanceof View) throw new UnsupportedError("ordering views of mappings");
    return fail(`'<' not supported between instances of '${typeOf(a)}' and '${typeOf(b)}'`);
  }
  for (let i = 0; i < Math.min(a.items.length, b.items.length); i++) {
    if (isEqual(a.items[i]!, b.items[i]!, budget, depth + 1)) continue;
    return order(a.items[i]!, b.items[i]!, budget, depth + 1);
  }
  return a.items.length - b.items.length;
}

/** Whether a value is in another. */
export function isIn(value: Value, container: Value, budget: Budget): boolean {
  if (container instanceof Markup || value instanceof Markup) {
    throw new UnsupportedError("looking into escaped text");
  }
  if (typeof container === "string") {
    if (typeof value !== "string") {
      return fail(`'in <string>' requires string as left operand, not ${typeOf(value)}`);
    }
    budget.spend(container.length);
    return container.includes(value);
  }
  if (container instanceof Dict) return container.get(value) !== undefined;
  if (container instanceof View && container.kind === "keys") return container.dict.get(value) !== undefined;
  if (container instanceof Namespace || container instanceof Callable || container instanceof Loop) {
    return fail(`argument of type '${typeOf(container)}' is not iterable`);
  }
  if (container instanceof Once) throw new UnsupportedError("looking into a generator (use | list)");
  return requireItems(container, budget).some((item) => item === value || isEqual(item, value, budget));
}

/** Whether a comparison holds. */
export function compare(operator: string, a: Value, b: Value, budget: Budget): boolean {
  switch (operator) {
    case "==":
      return isEqual(a, b, budget);
    case "!=":
      return !isEqual(a, b, budget);
    case "in":
      return isIn(a, b, budget);
    case "not in":
      return !isIn(a, b, budget);
    case "<":
      return order(a, b, budget) < 0;
    case "<=":
      return order(a, b, budget) <= 0;
    case ">":
      return order(a, b, budget) > 0;
    default:
      return order(a, b, budget) >= 0;
  }
}

/** The result of an operator between two values. */
export function binary(operator: string, a: Value, b: Value, budget: Budget): Value {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) return arithmetic(operator, x, y);
  if (a instanceof Markup || b instanceof Markup) {
    throw new UnsupportedError(`"${operator}" with escaped text`);
  }
  if (operator === "%" && typeof a === "string") return formatPercent(a, b, budget);
  if (operator === "+") {
    if (typeof a === "string" && typeof b === "string") {
      budget.checkSize(a.length + b.length);
      budget.spend(a.length + b.length);
      return a + b;
    }
    const joined = (p: readonly Value[], q: readonly Value[]) => {
      budget.checkSize(p.length + q.length);
      budget.spend(p.length + q.length);
      return [...p, ...q];
    };
    if (a instanceof List && b instanceof List) return new List(joined(a.items, b.items));
    if (a instanceof Tuple && b instanceof Tuple) return new Tuple(joined(a.items, b.items));
  }
  if (operator === "*") {
    if (typeof y === "bigint") return repeated(a, y, budget);
    if (typeof x === "bigint") return repeated(b, x, budget);
  }
  if (a instanceof View || b instanceof View) {
    throw new UnsupportedError(`"${operator}" of views of mappings`);
  }
  return fail(`unsupported operand type(s) for ${operator}: '${typeOf(a)}' and '${typeOf(b)}'`);
}

function repeated(value: Value, count: bigint, budget: Budget): Value {
  const times = Number(count < 0n ? 0n : count);
  const grow = (size: number) => {
    budget.checkSize(size * times);
    budget.spend(size * times);
  };
  if (typeof value === "string") {
    grow(value.length);
    return value.repeat(value === "" ? 0 : times);
  }
  if (value instanceof List || value instanceof Tuple) {
    grow(value.items.length);
    const items = value.items.length === 0 ? [] : Array.from({ length: times }, () => value.items).flat();
    return value instanceof List ? new List(items) : new Tuple(items);
  }
  return fail(`can't multiply sequence by non-int of type '${typeOf(value)}'`);
}

function arithmetic(operator: string, x: bigint | number, y: bigint | number): Value {
  if (typeof x === "bigint" && typeof y === "bigint") return wholeArithmetic(operator, x, y);
  const [a, b] = [toFloat(x), toFloat(y)];
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
    case "**":
      return power(a, b);
    default: {
      // The remainder has the sign of the divisor.
      const remainder = a % b;
      const moved = remainder !== 0 && (remainder < 0) !== (b < 0) ? remainder + b : remainder;
      if (operator === "%") return moved === 0 ? (b < 0 ? -0 : 0) : moved;
      const quotient = (a - moved) / b;
      const floor = Math.floor(quotient);
      if (quotient === 0) return Math.sign(a / b) * 0;
      return quotient - floor > 0.5 ? floor + 1 : floor;
    }
  }
}

function wholeArithmetic(operator: string, x: bigint, y: bigint): Value {
  if (y === 0n && ["/", "//", "%"].includes(operator)) return fail("division by zero");
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return bounded(x * y);
    case "/":
      return toFloat(x) / toFloat(y);
    case "**":
      if (y < 0n) {
        return x === 0n ? fail("0.0 cannot be raised to a negative power") : power(toFloat(x), toFloat(y));
      }
      if (BigInt(x.toString(2).length) * y > MAX_BITS) throw new UnsupportedError("a power of that size");
      return x ** y;
    default: {
      const remainder = x % y;
      const moved = remainder !== 0n && (remainder < 0n) !== (y < 0n) ? remainder + y : remainder;
      return operator === "%" ? moved : (x - moved) / y;
    }
  }
}

function bounded(value: bigint): bigint {
  if (value.toString(16).length * 4 > 2 * MAX_BITS) throw new UnsupportedError("a whole number of that size");
  return value;
}

/** A whole number as a float, which must hold it exactly where that decides about the result. */
function toFloat(value: bigint | number): number {
  if (typeof value === "number") return value;
  const float = Number(value);
  if (!Number.isFinite(float)) return fail("int too large to convert to float");
  if (BigInt(float) !== value) throw new UnsupportedError("floats of whole numbers that they cannot hold");
  return float;
}

/** Powers of whole numbers, which no library rounds otherwise than another. */
function power(a: number, b: number): number {
  if (a === 0 && b < 0) return fail("0.0 cannot be raised to a negative power");
  const result = a ** Math.abs(b);
  if (!Number.isInteger(a) || !Number.isInteger(b) || Math.abs(result) > 2 ** 53) {
    throw new UnsupportedError("powers of fractions, or of that size");
  }
  return b < 0 ? 1 / result : result;
}

/** A value with a sign before it. */
export function signed(operator: "-" | "+", value: Value): Value {
  const number = numberOf(value);
  if (number === null) return fail(`bad operand type for unary ${operator}: '${typeOf(value)}'`);
  return operator === "-" ? -number : number;
}
