/**
 * The command `edgetuner`: finds the command that is named and runs it.
 *
 * @module
 */

import { runProgram, UsageError } from "./flags/flags.ts";
import { setArguments } from "./process/arguments.ts";

/** A command's module. */
interface CommandModule {
  run(): Promise<number | void>;
}

/** Every command, loaded when it is asked for. */
const COMMANDS: Readonly<Record<string, () => Promise<CommandModule>>> = {
  "demo": () => import("./commands/demo.ts"),
  "tune": () => import("./commands/tune.ts"),
  "serve": () => import("./commands/serve.ts"),
  "join": () => import("./commands/join.ts"),
  "generate": () => import("./commands/generate.ts"),
  "choice": () => import("./commands/choice.ts"),
  "evaluate": () => import("./commands/evaluate.ts"),
  "decode": () => import("./commands/decode.ts"),
  "data": () => import("./commands/data.ts"),
  "compare": () => import("./commands/compare.ts"),
  "plan": () => import("./commands/plan.ts"),
  "sweep": () => import("./commands/sweep.ts"),
  "pull": () => import("./commands/pull.ts"),
  "export": () => import("./commands/export.ts"),
  "train-pruner": () => import("./commands/train_pruner.ts"),
  "e2e decode": () => import("./commands/e2e/decode.ts"),
  "e2e finetune": () => import("./commands/e2e/finetune.ts"),
  "e2e generate": () => import("./commands/e2e/generate.ts"),
  "e2e pull": () => import("./commands/e2e/pull.ts"),
  "e2e run": () => import("./commands/e2e/run.ts"),
  "e2e score": () => import("./commands/e2e/score.ts"),
  "e2e train-pruner": () => import("./commands/e2e/train_pruner.ts"),
};

/** The names of all commands. */
export const COMMAND_NAMES: readonly string[] = Object.keys(COMMANDS);

/**
 * Runs a command in this process, which ends with it.
 *
 * @param name The command, such as `tune`.
 * @param args Its flags.
 */
export async function runCommand(name: string, args: readonly string[] = Deno.args): Promise<void> {
  setArguments(args);
  await runProgram(async () => {
    const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (load === undefined) {
      throw new UsageError(
        `Cannot run edgetuner as the command must be one of ${
          COMMAND_NAMES.join(", ")
        }: current value is "${name}"`,
      );
    }
    return await (await load()).run();
  });
}

/** Splits a command line into the command's name and its flags. */
function commandOf(args: readonly string[]): [name: string, rest: readonly string[]] {
  const words = args.slice(0, 2).join(" ");
  return Object.hasOwn(COMMANDS, words) ? [words, args.slice(2)] : [args[0] ?? "", args.slice(1)];
}

if (import.meta.main) await runCommand(...commandOf(Deno.args));
