/**
 * Arguments of filters, tests and functions by place or by name, as Python binds them.
 *
 * @module
 */

import { fail, type Given, type Value } from "./values.ts";

/** Arguments by their names. */
export type Bound = Readonly<Record<string, Value | undefined>>;

/**
 * Binds arguments to the names of parameters.
 *
 * @param name What is called.
 * @param parameters Names in order; those with a `?` may be left out, those after `*` are given by name alone.
 * @param given The arguments.
 */
export function bind(name: string, parameters: readonly string[], { positional, named }: Given): Bound {
  const bound: Record<string, Value | undefined> = {};
  const plain = parameters.map((parameter) => parameter.replace(/[?*]/g, ""));
  const places = parameters.filter((parameter) => !parameter.startsWith("*"));
  if (positional.length > places.length) {
    return fail(`${name}() takes ${places.length} positional arguments but ${positional.length} were given`);
  }
  positional.forEach((value, i) => bound[plain[i]!] = value);
  for (const [key, value] of named) {
    if (!plain.includes(key)) return fail(`${name}() got an unexpected keyword argument '${key}'`);
    if (bound[key] !== undefined) return fail(`${name}() got multiple values for argument '${key}'`);
    bound[key] = value;
  }
  parameters.forEach((parameter, i) => {
    if (!parameter.includes("?") && bound[plain[i]!] === undefined) {
      fail(`${name}() missing 1 required positional argument: '${plain[i]}'`);
    }
  });
  return bound;
}
