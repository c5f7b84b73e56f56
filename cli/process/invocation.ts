/**
 * How this process was called: as the command `edgetuner NAME`, or through a program of `examples/`. What it prints
 * names commands in the same way.
 *
 * @module
 */

/** How a person calls a command. */
export type CallForm = "command" | "program";

let current: { readonly args: readonly string[]; readonly form: CallForm } = {
  args: Deno.args,
  form: "program",
};

/** Flags of the command that runs: what follows its name. */
export function commandArguments(): readonly string[] {
  return current.args;
}

/** How the command was called. */
export function callForm(): CallForm {
  return current.form;
}

/** Says which arguments the command has and how it was called. */
export function setInvocation(args: readonly string[], form: CallForm): void {
  current = { args, form };
}
