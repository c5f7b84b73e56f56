/**
 * Running another program of `examples/` as if it had been typed.
 *
 * @module
 */

import { Interrupts } from "./interrupts.ts";
import type { CallForm } from "./invocation.ts";
import { MEMORY_FLAGS } from "./permissions.ts";
import { commandText, programArgs } from "./places.ts";

/**
 * Prints the command, runs the program with this one's output, and hands signals on.
 *
 * @param program File in `examples/`.
 * @param form How it is to name commands.
 * @returns Its exit code.
 */
export async function runExample(program: string, args: readonly string[], form: CallForm): Promise<number> {
  console.error(commandText(program, args, form));
  return await runAsUsersDo([...programArgs(program, form), ...args]);
}

/**
 * Runs a module in a process of its own with the limits of memory that users' programs have, and this one's output;
 * hands signals on.
 *
 * @param args Module, and its arguments.
 * @param v8Flags More flags of V8, such as `--expose-gc`.
 * @returns Its exit code.
 */
export async function runAsUsersDo(
  args: readonly string[],
  v8Flags: readonly string[] = [],
): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", [MEMORY_FLAGS, ...v8Flags].join(","), "--quiet", ...args],
    stdin: "null",
  }).spawn();
  const pass = (signal: Deno.Signal) => {
    try {
      child.kill(signal);
    } catch {
      // It has ended already.
    }
  };
  // A terminal sends Ctrl-C to both; a second SIGINT would stop the child at once.
  using _interrupts = new Interrupts((count) => {
    if (count > 1) pass("SIGKILL");
    else if (!Deno.stdin.isTerminal()) pass(Deno.build.os === "windows" ? "SIGINT" : "SIGTERM");
  });
  return (await child.status).code;
}
