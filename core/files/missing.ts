/**
 * Files that may be missing.
 *
 * @module
 */

/** True if an error says that a file or folder is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
}
