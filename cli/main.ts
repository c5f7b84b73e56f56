/**
 * The command `edgetuner`: finds the command that is named and runs it.
 *
 * @module
 */

import type { Call, CallForm } from "./process/invocation.ts";
import { AS_PROGRAM } from "./process/places.ts";
import { supervise } from "./process/supervisor.ts";

export type { Call, CallForm } from "./process/invocation.ts";

/** A command's module. */
export interface CommandModule {
  /** Runs the command; the exit code. */
  run(call: Call): Promise<number | void>;
}

/** One command. */
export interface Command {
  /** What it does, in a line; empty for a second name of a command. */
  readonly about: string;
  /** Loads it, when it is asked for. */
  readonly load: () => Promise<CommandModule>;
}

/** Every command, in the order of the help. */
const COMMANDS: Readonly<Record<string, Command>> = {
  "demo": {
    about: "Fine-tune a small model with an edge server and three devices, all on this machine",
    load: () => import("./commands/demo.ts"),
  },
  "tune": {
    about: "Fine-tune on this machine alone, without a network",
    load: () => import("./commands/tune.ts"),
  },
  "serve": {
    about: "Be the edge server: hold the base model and wait for devices",
    load: () => import("./commands/serve.ts"),
  },
  "join": {
    about: "Be a device: join an edge server, with data or without",
    load: () => import("./commands/join.ts"),
  },
  "discover": {
    about: "List the edge servers that announce themselves in this network",
    load: () => import("./commands/discover.ts"),
  },
  "generate": {
    about: "Continue prompts with a model and an adapter",
    load: () => import("./commands/generate.ts"),
  },
  "chat": {
    about: "Talk to a model, with or without an adapter",
    load: () => import("./commands/chat.ts"),
  },
  "api": {
    about: "Answer requests in the form of the OpenAI API, here or through the split",
    load: () => import("./commands/api.ts"),
  },
  "evaluate": {
    about: "Score texts against references: BLEU, NIST, METEOR, ROUGE-L, CIDEr",
    load: () => import("./commands/evaluate.ts"),
  },
  "choice": {
    about: "Score questions with answers to choose from; also: evaluate choice",
    load: () => import("./commands/choice.ts"),
  },
  "decode": {
    about: "Make the files that evaluate reads from predicted tokens; also: evaluate decode",
    load: () => import("./commands/decode.ts"),
  },
  "compare": {
    about: "Compare systems, pruners and parameters on one emulated link",
    load: () => import("./commands/compare.ts"),
  },
  "plan": {
    about: "Forecast seconds, bytes and memory of a step; nothing is run",
    load: () => import("./commands/plan.ts"),
  },
  "sweep": {
    about: "Simulate a run with different numbers of devices",
    load: () => import("./commands/sweep.ts"),
  },
  "pull": { about: "Download a model or a data set", load: () => import("./commands/pull.ts") },
  "export": {
    about: "Write an adapter for PEFT, or merge it into the model",
    load: () => import("./commands/export.ts"),
  },
  "data": {
    about: "Show what data holds, or make training data of a data set",
    load: () => import("./commands/data.ts"),
  },
  "train-pruner": {
    about: "Train the predictor of iHeadPruner",
    load: () => import("./commands/train_pruner.ts"),
  },
  "doctor": {
    about: "Say what this machine has for a run, and what to do about what is missing",
    load: () => import("./commands/doctor.ts"),
  },
  "e2e run": {
    about: "The five steps on the E2E data, from data to scores",
    load: () => import("./commands/e2e/run.ts"),
  },
  "e2e pull": { about: "Step 0: model and data", load: () => import("./commands/e2e/pull.ts") },
  "e2e train-pruner": {
    about: "Step 1: the pruner's predictor",
    load: () => import("./commands/e2e/train_pruner.ts"),
  },
  "e2e finetune": { about: "Step 2: fine-tuning", load: () => import("./commands/e2e/finetune.ts") },
  "e2e generate": { about: "Step 3: texts", load: () => import("./commands/e2e/generate.ts") },
  "e2e decode": { about: "Step 4: files to score", load: () => import("./commands/e2e/decode.ts") },
  "e2e score": { about: "Step 5: scores", load: () => import("./commands/e2e/score.ts") },
  "evaluate choice": { about: "", load: () => import("./commands/choice.ts") },
  "evaluate decode": { about: "", load: () => import("./commands/decode.ts") },
};

/** The names of all commands. */
export const COMMAND_NAMES: readonly string[] = Object.keys(COMMANDS);

/** Finds a command, or what stands in place of one, such as `--help`. */
export function loadCommand(name: string): Command {
  if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name]!;
  return {
    about: "",
    load: async () => {
      const { withoutCommand } = await import("./overview.ts");
      return { run: () => Promise.resolve(withoutCommand(name, COMMANDS)) };
    },
  };
}

/**
 * Runs a command in this process, which ends with it. The main thread does nothing but hear Ctrl-C: it loads nothing of
 * the command.
 *
 * @param name The command, such as `tune`.
 * @param args Its flags.
 * @param form How the person called it, which is how it names commands.
 */
export async function runCommand(
  name: string,
  args: readonly string[] = Deno.args,
  form: CallForm = "program",
): Promise<void> {
  await supervise(async () => {
    const { exitCodeOf } = await import("./flags/flags.ts");
    return await exitCodeOf(async () => await (await loadCommand(name).load()).run({ args, form }), {
      args,
      form,
    });
  });
}

/** Splits a command line into the command's name and its flags. */
function split(args: readonly string[]): [name: string, rest: readonly string[]] {
  // `edgetuner help tune` is `edgetuner tune --help`.
  if (args[0] === "help" && args.length > 1) return split([...args.slice(1), "--help"]);
  const words = args.slice(0, 2).join(" ");
  return Object.hasOwn(COMMANDS, words) ? [words, args.slice(2)] : [args[0] ?? "", args.slice(1)];
}

if (import.meta.main) {
  const isProgram = Deno.args[0] === AS_PROGRAM;
  await runCommand(...split(isProgram ? Deno.args.slice(1) : Deno.args), isProgram ? "program" : "command");
}
