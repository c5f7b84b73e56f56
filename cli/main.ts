/**
 * The command `edgetuner`: finds the command that is named and runs it.
 *
 * @module
 */

import { ProgramEnd, runProgram, UsageError } from "./flags/flags.ts";
import { didYouMean } from "./flags/suggest.ts";
import { versions } from "./output/report.ts";
import { terminalColumns, wrapped } from "./output/terminal.ts";
import type { Call, CallForm } from "./process/invocation.ts";

export type { Call, CallForm } from "./process/invocation.ts";
import { AS_PROGRAM } from "./process/places.ts";

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

/**
 * The help of `edgetuner` itself: all commands in a table.
 *
 * @param width Columns of the terminal.
 */
export function overview(width: number): string {
  const left = 20;
  const rows = Object.entries(COMMANDS).filter(([, { about }]) => about !== "").flatMap(([name, { about }]) =>
    wrapped(about, Math.max(20, width - left)).map((line, i) =>
      (i === 0 ? `  ${name}` : "").padEnd(left) + line
    )
  );
  return [
    ...wrapped(
      "EdgeTuner fine-tunes language models: an edge server holds the model, devices hold what is learnt.",
      width,
    ),
    "",
    "  edgetuner COMMAND [flags]",
    "",
    "Commands",
    ...rows,
    "",
    "  edgetuner COMMAND -h    flags and examples of a command",
    "  edgetuner --version     the version",
    "",
    ...wrapped("Begin with `edgetuner demo`: it takes a few minutes and needs no download.", width),
  ].join("\n");
}

/**
 * Finds a command, or does what stands in place of one, such as `--help`.
 *
 * @throws {UsageError} If there is no such command.
 * @throws {ProgramEnd} If something else was done.
 */
export function loadCommand(name: string): Command {
  if (Object.hasOwn(COMMANDS, name)) return COMMANDS[name]!;
  if (["--help", "-h", "help", ""].includes(name)) {
    console.log(overview(terminalColumns()));
    throw new ProgramEnd(name === "" ? 2 : 0);
  }
  if (["--version", "-V"].includes(name)) {
    console.log(versions().edgetuner);
    throw new ProgramEnd(0);
  }
  throw new UsageError(
    `Cannot run edgetuner as the command must be one of its own: "${name}" is not${
      didYouMean(name, COMMAND_NAMES, "edgetuner ") || "; see edgetuner --help"
    }`,
  );
}

/**
 * Runs a command in this process, which ends with it.
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
  await runProgram(async () => await (await loadCommand(name).load()).run({ args, form }), { args, form });
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
