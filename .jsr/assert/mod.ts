/**
 * Stand-in for the part of `@std/assert` that this repository uses, so that a checkout tests itself where
 * only npm can be reached. Published packages use the real one; `deno task test:jsr` runs the tests with it.
 *
 * @module
 */
import { AssertionError as NodeAssertionError } from "node:assert";
import { inspect, stripVTControlCharacters } from "node:util";
import { equal } from "./equal.ts";

export { equal };

/** Any class, abstract ones included. */
// deno-lint-ignore no-explicit-any -- a class with any parameters can be asserted
export type AnyConstructor = abstract new (...args: any[]) => unknown;

/** Error class whose instances an assertion expects. */
// deno-lint-ignore no-explicit-any -- a class with any parameters can be asserted
type ErrorConstructor<E extends Error> = abstract new (...args: any[]) => E;

/** Error thrown when an assertion fails. */
export class AssertionError extends Error {
  /** Always `"AssertionError"`. */
  override name = "AssertionError";
}

/** Stops the test, whatever the values. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${suffix(msg)}`);
}

/** Asserts that a value is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Asserts that a value is falsy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is false {
  if (expr) throw new AssertionError(msg);
}

/** Asserts that two values are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(`Values are not equal${suffix(msg)}\n${difference(actual, expected)}`);
}

/** Asserts that two values are not deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected actual: ${inspect(actual)} not to be: ${inspect(expected)}${suffix(msg)}`,
  );
}

/** Asserts that two values are identical, as `Object.is()` has it. */
export function assertStrictEquals<T>(actual: unknown, expected: T, msg?: string): asserts actual is T {
  if (Object.is(actual, expected)) return;
  const what = equal(actual, expected)
    ? `Values have the same structure but are not reference-equal${suffix(msg)}`
    : `Values are not strictly equal${suffix(msg)}`;
  throw new AssertionError(`${what}\n${difference(actual, expected)}`);
}

/** Asserts that two values are not identical, as `Object.is()` has it. */
export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!Object.is(actual, expected)) return;
  throw new AssertionError(`Expected "actual" to not be strictly equal to: ${inspect(actual)}${suffix(msg)}`);
}

/**
 * Asserts that two numbers differ by `tolerance` at most: by default 1e-7 of the expected one.
 */
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg?: string): void {
  if (Object.is(actual, expected)) return;
  const limit = tolerance ?? (Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7);
  const delta = Math.abs(expected - actual);
  if (delta <= limit) return; // false for NaN
  throw new AssertionError(
    `Expected actual: "${actual}" to be close to "${expected}": ` +
      `delta "${delta}" is greater than "${limit}"${suffix(msg)}`,
  );
}

/** Asserts that `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual > expected)) throw new AssertionError(msg ?? comparison(actual, ">", expected));
}

/** Asserts that `actual >= expected`. */
export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual >= expected)) throw new AssertionError(msg ?? comparison(actual, ">=", expected));
}

/** Asserts that `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual < expected)) throw new AssertionError(msg ?? comparison(actual, "<", expected));
}

/** Asserts that `actual <= expected`. */
export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual <= expected)) throw new AssertionError(msg ?? comparison(actual, "<=", expected));
}

/** Asserts that a value is neither `null` nor `undefined`. */
export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(`Expected actual: "${actual}" to not be null or undefined${suffix(msg)}`);
}

/** Asserts that a value is an instance of a class. */
export function assertInstanceOf<T extends AnyConstructor>(
  actual: unknown,
  expectedType: T,
  msg?: string,
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}" but was "${typeName(actual)}"${suffix(msg)}`,
  );
}

/** Asserts that a string matches a pattern. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  if (expected.test(actual)) return;
  throw new AssertionError(`Expected actual: "${actual}" to match: "${expected}"${suffix(msg)}`);
}

/** Asserts that a string contains another one. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(`Expected actual: "${actual}" to contain: "${expected}"${suffix(msg)}`);
}

/** Asserts that every expected element is in an array, compared deeply. */
export function assertArrayIncludes<T>(actual: ArrayLike<T>, expected: ArrayLike<T>, msg?: string): void {
  const found = Array.from(actual);
  const missing = Array.from(expected).filter((wanted) => !found.some((value) => equal(value, wanted)));
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${inspect(actual)}" to include: "${inspect(expected)}"${suffix(msg)}\n` +
      `missing: ${inspect(missing)}`,
  );
}

/** Asserts that a value is an error, optionally of a class and with a message that contains a text. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: ErrorConstructor<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    throw new AssertionError(`Expected "error" to be an Error object${suffix(msg)}`);
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", but was "${typeName(error)}"${suffix(msg)}`,
    );
  }
  if (!msgMatches) return;
  const message = stripVTControlCharacters(error.message);
  const matches = typeof msgMatches === "string"
    ? message.includes(stripVTControlCharacters(msgMatches))
    : msgMatches.test(message);
  if (matches) return;
  const wanted = typeof msgMatches === "string" ? JSON.stringify(msgMatches) : String(msgMatches);
  throw new AssertionError(
    `Expected error message to include ${wanted}, but got ${JSON.stringify(error.message)}${suffix(msg)}`,
  );
}

/** Asserts that a function throws, whatever it throws, and returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Asserts that a function throws an error of a class, and returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: ErrorConstructor<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error>(
  fn: () => unknown,
  classOrMsg?: ErrorConstructor<E> | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  const expected = expectation(classOrMsg, msgIncludes, msg);
  try {
    fn();
  } catch (error) {
    return checkThrown(error, expected, "thrown");
  }
  throw new AssertionError(`Expected function to throw${suffix(expected.msg)}`);
}

/** Asserts that a function returns a promise that rejects, and resolves to the reason. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
/** Asserts that a function returns a promise that rejects with an error of a class, and resolves to it. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: ErrorConstructor<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error>(
  fn: () => PromiseLike<unknown>,
  classOrMsg?: ErrorConstructor<E> | string,
  msgIncludes?: string,
  msg?: string,
): Promise<unknown> {
  const expected = expectation(classOrMsg, msgIncludes, msg);
  let promise: PromiseLike<unknown> | undefined;
  try {
    promise = fn();
  } catch { /* told below, together with functions that return no promise */ }
  if (typeof promise?.then !== "function") {
    throw new AssertionError(`Function throws when expected to reject${suffix(expected.msg)}`);
  }
  try {
    await promise;
  } catch (error) {
    return checkThrown(error, expected, "rejected");
  }
  throw new AssertionError(`Expected function to reject${suffix(expected.msg)}`);
}

interface Expectation<E extends Error> {
  ErrorClass: ErrorConstructor<E> | undefined;
  msgIncludes: string | undefined;
  msg: string | undefined;
}

/** Sorts the arguments of the two overloads of `assertThrows()` and `assertRejects()`. */
function expectation<E extends Error>(
  classOrMsg: ErrorConstructor<E> | string | undefined,
  msgIncludes: string | undefined,
  msg: string | undefined,
): Expectation<E> {
  return typeof classOrMsg === "string"
    ? { ErrorClass: undefined, msgIncludes: undefined, msg: classOrMsg }
    : { ErrorClass: classOrMsg, msgIncludes, msg };
}

function checkThrown<E extends Error>(error: unknown, expected: Expectation<E>, how: string): unknown {
  const { ErrorClass, msgIncludes, msg } = expected;
  if (!ErrorClass) return error;
  if (!(error instanceof Error)) throw new AssertionError(`A non-Error object was ${how}${suffix(msg)}`);
  assertIsError(error, ErrorClass, msgIncludes, msg);
  return error;
}

function suffix(msg: string | undefined): string {
  return msg ? `: ${msg}` : ".";
}

function comparison(actual: unknown, operator: string, expected: unknown): string {
  return `Expect ${inspect(actual)} ${operator} ${inspect(expected)}`;
}

function typeName(value: unknown): string {
  if (typeof value !== "object" || value === null) return value === null ? "null" : typeof value;
  return value.constructor?.name ?? "Object";
}

/** Line by line difference. Long arrays are cut: printing a whole tensor would take minutes. */
function difference(actual: unknown, expected: unknown): string {
  const [left, right] = [actual, expected].map((value) => inspect(value, { depth: 8, sorted: true }));
  if (left === right) return `[both print as] ${left}`;
  return new NodeAssertionError({ actual: left, expected: right, operator: "strictEqual" }).message;
}
