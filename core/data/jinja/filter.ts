/**
 * What a filter is.
 *
 * @module
 */

import type { Budget, Given, Value } from "./values.ts";

/** What filters may use of the interpreter. */
export interface FilterContext {
  readonly budget: Budget;
  /** Runs a filter by its name. */
  filter(name: string, value: Value, given: Given): Value;
  /** Runs a test by its name. */
  test(name: string, value: Value, given: Given): boolean;
  /** An item or else an attribute of a value. */
  item(value: Value, key: Value): Value;
}

/** A filter. */
export type Filter = (value: Value, given: Given, context: FilterContext) => Value;
