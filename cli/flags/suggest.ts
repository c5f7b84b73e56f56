/**
 * What a person may have meant by a name that is not known.
 *
 * @module
 */

import { closest, distance } from "fastest-levenshtein";

/**
 * The known name that is most like the given one; `null` if none is alike.
 *
 * @param given What was given; only its first 100 characters count.
 */
export function alike(given: string, names: readonly string[]): string | null {
  const word = given.slice(0, 100).toLowerCase();
  if (word === "" || names.length === 0) return null;
  const begun = names.filter((name) => name.startsWith(word));
  if (word.length > 1 && begun.length === 1) return begun[0]!;
  const found = closest(word, names);
  return distance(word, found) <= Math.ceil(word.length / 3) ? found : null;
}

/**
 * A question to end a message with, such as `; did you mean --steps?`; empty if no name is alike.
 *
 * @param before What stands before names where people type them.
 */
export function didYouMean(given: string, names: readonly string[], before = ""): string {
  const found = alike(given, names);
  return found === null ? "" : `; did you mean ${before}${found}?`;
}
