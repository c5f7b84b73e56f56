/**
 * The check of a number that someone gave as an option.
 *
 * @module
 */

/** Checks one number: its name, the number, and in words and code what it must be. */
export type NumberCheck = (
  name: string,
  value: unknown,
  rule: string,
  holds: (value: number) => boolean,
) => void;

/**
 * Checks numbers that an action is given.
 *
 * @example
 * ```ts
 * import { numberCheck } from "@edgetuner/core/contracts";
 *
 * const check = numberCheck("create my pruner");
 * check("keep", 0.5, "above 0 and at most 1", (x) => x > 0 && x <= 1);
 * ```
 *
 * @param action What cannot be done otherwise, such as "create a gradient pruner".
 * @returns A function that throws a `TypeError` for what is no number, and a `RangeError` for one that breaks its rule.
 */
export function numberCheck(action: string): NumberCheck {
  return (name, value, rule, holds) => {
    if (typeof value !== "number") {
      throw new TypeError(`Cannot ${action} as "${name}" must be a number: current type is ${typeof value}`);
    }
    if (!holds(value)) {
      throw new RangeError(`Cannot ${action} as "${name}" must be ${rule}: current value is ${value}`);
    }
  };
}
