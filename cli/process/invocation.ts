/**
 * How a command is called: as `edgetuner NAME`, or through a program of `examples/`. What it prints names commands
 * in the same way.
 *
 * @module
 */

/** How a person calls a command. */
export type CallForm = "command" | "program";

/** One call of a command. It is handed on to whatever reads its flags or names a command. */
export interface Call {
  /** Flags as they were typed: what follows the command's name. */
  readonly args: readonly string[];
  /** How the person named the command. */
  readonly form: CallForm;
}

/** The call of a program that is no command. */
export const OWN_CALL: Call = { args: Deno.args, form: "program" };
