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
  const plain = names.map((name) => name.toLowerCase());
  const begun = plain.filter((name) => name !== "" && name.startsWith(word));
  const found = word.length > 1 && begun.length === 1 ? begun[0]! : closest(word, plain);
  const apart = distance(word, found);
  if (begun.includes(found) || (apart < word.length && apart <= Math.ceil(word.length / 3))) {
    return names[plain.indexOf(found)]!;
  }
  // `q_proj` for q: a name with something behind it.
  const [inside, ...others] = plain.filter((name) => name !== "" && word.startsWith(name));
  return inside !== undefined && others.length === 0 ? names[plain.indexOf(inside)]! : null;
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

/** What a message says of a name that is not known: which one it is, and what may have been meant. */
export function unknownName(given: string, names: readonly string[]): string {
  return `current value is "${given}"${didYouMean(given, names)}`;
}
