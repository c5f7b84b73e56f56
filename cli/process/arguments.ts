/**
 * The arguments of the command that this process runs.
 *
 * @module
 */

let current: readonly string[] = Deno.args;

/** Flags of the command that runs: what follows its name. */
export function commandArguments(): readonly string[] {
  return current;
}

/** Says which arguments the command has. */
export function setArguments(args: readonly string[]): void {
  current = args;
}
