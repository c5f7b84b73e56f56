/**
 * Tests of templates: what follows `is`.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { isLowerText, isUpperText } from "./methods.ts";
import { FILTER_NAMES, TEST_NAMES } from "./names.ts";
import { binary, compare, isIn } from "./operations.ts";
import { bind } from "./signature.ts";
import {
  type Budget,
  Callable,
  Dict,
  fail,
  type Given,
  List,
  Loop,
  Markup,
  Namespace,
  Once,
  Range,
  Tuple,
  Undefined,
  type Value,
  View,
} from "./values.ts";
import { textOf } from "./writing.ts";

type Test = (value: Value, budget: Budget) => boolean;
type TestWith = (value: Value, other: Value, budget: Budget) => boolean;

const isIterable = (value: Value): boolean =>
  typeof value === "string" || value instanceof Undefined || value instanceof Markup ||
  value instanceof Loop ||
  [List, Tuple, Dict, View, Range, Once].some((kind) => value instanceof kind);

/** What has a length and items: also views, which Python does not count, and so are refused. */
function isSequence(value: Value): boolean {
  if (value instanceof View) return false;
  if (value instanceof Loop) throw new UnsupportedError('"sequence" of a loop');
  return typeof value === "string" || value instanceof Markup || value instanceof Undefined ||
    [List, Tuple, Dict, Range].some((kind) => value instanceof kind);
}

function remainder(value: Value, by: Value, budget: Budget): Value {
  return binary("%", value, by, budget);
}

const isZero = (value: Value): boolean => value === 0n || value === 0 || value === false;

const PLAIN: Readonly<Record<string, Test>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => {
    if (value instanceof Undefined || value instanceof Loop) {
      throw new UnsupportedError('"callable" of such a value');
    }
    return value instanceof Callable;
  },
  defined: (value) => !(value instanceof Undefined),
  even: (value, budget) => isZero(remainder(value, 2n, budget)),
  false: (value) => value === false,
  float: (value) => typeof value === "number",
  integer: (value) => typeof value === "bigint",
  iterable: isIterable,
  lower: (value, budget) => isLowerText(textOf(value, budget)),
  mapping: (value) => value instanceof Dict,
  none: (value) => value === null,
  number: (value) => ["boolean", "bigint", "number"].includes(typeof value),
  odd: (value, budget) => compare("==", remainder(value, 2n, budget), 1n, budget),
  sequence: isSequence,
  string: (value) => typeof value === "string" || value instanceof Markup,
  true: (value) => value === true,
  undefined: (value) => value instanceof Undefined,
  upper: (value, budget) => isUpperText(textOf(value, budget)),
  escaped: (value) => value instanceof Markup,
  filter: (value) => FILTER_NAMES.has(String(value)),
  test: (value) => TEST_NAMES.has(String(value)),
};

const isSame = (a: Value, b: Value): boolean => {
  if (a === null || b === null || typeof a === "boolean" || typeof b === "boolean") return a === b;
  // Python keeps small numbers and texts once; what else is the same is a matter of its making.
  const isSmall = (value: Value) => typeof value === "bigint" && value >= -5n && value <= 256n;
  if (isSmall(a) && isSmall(b)) return a === b;
  if (typeof a !== typeof b) return false;
  if (typeof a === "object" && typeof b === "object") return a === b;
  throw new UnsupportedError('"sameas" of such values');
};

const comparing = (operator: string): TestWith => (a, b, budget) => compare(operator, a, b, budget);

const WITH: Readonly<Record<string, TestWith>> = {
  divisibleby: (value, other, budget) => isZero(remainder(value, other, budget)),
  in: (value, other, budget) => isIn(value, other, budget),
  sameas: isSame,
  ...Object.fromEntries(["eq", "equalto"].map((name) => [name, comparing("==")])),
  ...Object.fromEntries(["gt", "greaterthan"].map((name) => [name, comparing(">")])),
  ...Object.fromEntries(["lt", "lessthan"].map((name) => [name, comparing("<")])),
  ...{ ne: comparing("!="), ge: comparing(">="), le: comparing("<=") },
  ...Object.fromEntries(["==", "!=", "<", "<=", ">", ">="].map((name) => [name, comparing(name)])),
};

/**
 * Whether a test holds.
 *
 * @throws {TemplateError} If there is no test of that name.
 */
export function runTest(name: string, value: Value, given: Given, budget: Budget): boolean {
  if (Object.hasOwn(PLAIN, name)) {
    bind(name, [], given);
    if (value instanceof Namespace && name === "iterable") return false;
    return PLAIN[name]!(value, budget);
  }
  if (!Object.hasOwn(WITH, name)) return fail(`No test named '${name}'`);
  const { other } = bind(name, ["other"], { ...given, named: new Map() });
  if (given.named.size > 0) throw new UnsupportedError(`named arguments of the test "${name}"`);
  return WITH[name]!(value, other!, budget);
}
