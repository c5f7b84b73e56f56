/**
 * Modules of the user's own, where a flag also takes names.
 *
 * @module
 */

import { moduleAddress } from "../process/places.ts";
import { UsageError } from "./flags.ts";
import { unknownName } from "./suggest.ts";

/**
 * The address of the module that a flag names.
 *
 * @param flag The flag, such as `pruner`.
 * @param given A path or an address, and none of the names.
 * @param names What else the flag takes.
 * @throws {UsageError} If it is a path and there is no such file; with the name that may have been meant.
 */
export function moduleOf(flag: string, given: string, names: readonly string[]): string {
  const address = moduleAddress(given);
  if (!address.startsWith("file:")) return address;
  try {
    Deno.statSync(new URL(address));
    return address;
  } catch (error) {
    // Who may not look cannot say that it is not there; but a word alone is meant as a name.
    if (!(error instanceof Deno.errors.NotFound) && !/^[\w-]+$/.test(given)) return address;
  }
  throw new UsageError(
    `Cannot use the ${flag} as --${flag} must be one of ${names.join(", ")}, or a module that is there: ${
      unknownName(given, names)
    }`,
  );
}
