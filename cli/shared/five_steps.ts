/**
 * What the programs of `examples/e2e` share: a run's folder, in which a note says what the run is made of, so that
 * each step needs hardly any flags.
 *
 * @module
 */

import type { Call, CallForm } from "../process/invocation.ts";
import { ModelFileError, writeWhole } from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import {
  type Flag,
  type FlagValues,
  type GivenFlags,
  type ProgramText,
  readGiven,
  UsageError,
  withDefaults,
} from "../flags/flags.ts";
import { endingWith } from "../process/exit_codes.ts";
import { runExample } from "../process/launch.ts";
import { commandText } from "../process/places.ts";
import { duration } from "../output/progress.ts";

type Value = string | number | boolean;

/** What a run is made of: the note in its folder. */
export interface RunNote {
  /** The base model. */
  readonly model: string;
  /** Its tokenizer, if it is elsewhere; else empty. */
  readonly tokenizer: string;
  /** Where the data come from. */
  readonly data: { readonly train: string; readonly valid: string; readonly test: string };
  /** Values that take the place of the steps' defaults. */
  readonly settings: Readonly<Record<string, Value>>;
  /** True if only some of the test prompts were continued. */
  readonly partial: boolean;
  /** What the pruner's samples were collected with, once there are any. */
  readonly collected?: string;
}

/** The folder of a run. */
export const OUT_FLAG = {
  ...COMMON_FLAGS.out,
  default: "runs/e2e",
  help: "folder of the run: edgetuner e2e pull makes it, the other steps go on in it",
};

/** The same for programs that begin a run: without it each kind of run has a folder of its own. */
export const NEW_OUT_FLAG = {
  ...COMMON_FLAGS.out,
  help:
    `folder of the run [${OUT_FLAG.default}, with the tiny model ${OUT_FLAG.default}_tiny, with --restaurant ${OUT_FLAG.default}_restaurant]`,
};

/** The folder that a run begins in if none is named. */
export function newOut(kind: "restaurant" | "tiny" | "other"): string {
  return kind === "other" ? OUT_FLAG.default : `${OUT_FLAG.default}_${kind}`;
}

/** `--out`, where a command needs it. */
export function outArgs(out: string): string[] {
  return out === OUT_FLAG.default ? [] : ["--out", out];
}

const NOTE = "e2e.json";

/** The programs in their order. */
const ORDER = ["pull.ts", "train_pruner.ts", "finetune.ts", "generate.ts", "decode.ts", "score.ts"];

/** The command of the step after one; `null` after the last. */
export function nextCommand(program: string, out: string, form: CallForm): string | null {
  const next = ORDER[ORDER.indexOf(program.replace("e2e/", "")) + 1];
  if (next === undefined) return null;
  return commandText(`e2e/${next}`, outArgs(out), form);
}

/** Settings that must be the same in all steps that have them: what one step is given holds for those after it. */
const SHARED = [
  "batch",
  "length",
  "mode",
  "targets",
  "rank",
  "alpha",
  "dropout",
  "capacities",
  "base-weights",
  "train-on-prompt",
];

/** One of the programs. */
export interface FiveStep<S extends Record<string, Flag>> extends ProgramText {
  /** What the step does, for the headline. */
  readonly title: string;
  /** Flags besides `--out`. */
  readonly flags: S;
  /** Files of the folder that must be there, and which program makes them. */
  readonly needs: Readonly<Record<string, string>>;
  /**
   * Does the step.
   *
   * @returns Exit code, and what changes in the note.
   */
  readonly run: (
    values: FlagValues<S>,
    note: RunNote,
    out: string,
    form: CallForm,
  ) => Promise<{ readonly code: number; readonly changes?: Partial<RunNote> }>;
}

/** Any step. */
// deno-lint-ignore no-explicit-any -- the values belong to the flags of the same step
export type AnyStep = FiveStep<any>;

/** Reads the note of a run; `null` if there is none. */
export async function readNote(out: string): Promise<RunNote | null> {
  let content: string;
  try {
    content = await Deno.readTextFile(`${out}/${NOTE}`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
  try {
    const note = JSON.parse(content) as RunNote;
    if (typeof note.model === "string" && typeof note.settings === "object") return note;
  } catch {
    // Told below.
  }
  throw new ModelFileError(
    `${out}/${NOTE} was not written by pull.ts; run pull.ts again with another --out`,
  );
}

/** Writes the note of a run. */
export async function writeNote(out: string, note: RunNote): Promise<void> {
  await writeWhole(`${out}/${NOTE}`, `${JSON.stringify(note, null, 2)}\n`);
}

/** Flags whose defaults are the run's own settings. */
function ofRun<S extends Record<string, Flag>>(flags: S, settings: RunNote["settings"]): S {
  const entries = Object.entries(flags).map(([name, flag]) => {
    const value = Object.hasOwn(settings, name) ? settings[name] : undefined;
    if (value === undefined || flag.kind === "switch") return [name, flag];
    // What the run says is not chosen anew to fit the model.
    return [name, { ...flag, default: value, ...("fits" in flag ? { fits: false } : {}) }];
  });
  return Object.fromEntries(entries);
}

/**
 * Runs a step in a folder.
 *
 * @param step The step.
 * @param given Its flags, those that were given.
 * @param out The folder.
 * @param form How it is to name commands.
 * @returns Exit code.
 * @throws {UsageError} If a file is missing that another step makes.
 */
export async function runStep<S extends Record<string, Flag>>(
  step: FiveStep<S>,
  given: GivenFlags<S>,
  out: string,
  form: CallForm,
): Promise<number> {
  const note = await readNote(out);
  for (const [file, program] of Object.entries({ [NOTE]: "pull.ts", ...step.needs })) {
    if (await Deno.stat(`${out}/${file}`).then(() => true, () => false)) continue;
    const command = commandText(`e2e/${program}`, outArgs(out), form);
    throw new UsageError(
      `${step.name} needs ${out}/${file}, which does not exist yet; first run ${command}`,
    );
  }
  const { settings } = note!;
  const switches = Object.entries(step.flags).filter(([name, flag]) =>
    flag.kind === "switch" && settings[name]
  );
  const on = Object.fromEntries(switches.map(([name]) => [name, true])) as GivenFlags<S>;
  const values = withDefaults(ofRun(step.flags, settings), { ...on, ...given });
  console.error(`\n== ${step.title}`);
  const started = performance.now();
  const { code, changes } = await step.run(values, note!, out, form);
  if (code !== 0) return code;
  const shared = SHARED.filter((name) => Object.hasOwn(step.flags, name));
  await writeNote(out, {
    ...note!,
    ...changes,
    settings: { ...settings, ...Object.fromEntries(shared.map((name) => [name, values[name] as Value])) },
  });
  console.error(`(${duration((performance.now() - started) / 1000)})`);
  return 0;
}

/** The main program of a step that goes on in a folder. */
export async function stepProgram<S extends Record<string, Flag>>(
  step: FiveStep<S>,
  { args, form }: Call,
): Promise<number> {
  // `--help` shows the defaults of the run that it is asked about.
  const at = args.findLastIndex((arg) => arg === "--out" || arg.startsWith("--out="));
  const peeked = at < 0 ? OUT_FLAG.default : args[at]!.split("=")[1] ?? args[at + 1] ?? "";
  const settings = (await readNote(peeked).catch(() => null))?.settings ?? {};
  const { out = OUT_FLAG.default, ...given } = readGiven(step, {
    ...ofRun(step.flags, settings),
    out: OUT_FLAG,
  }, { args, form }) as GivenFlags<S> & { readonly out?: string };
  const code = await runStep(step, given as unknown as GivenFlags<S>, out, form);
  if (code !== 0) {
    const ending = endingWith(code);
    console.error(
      `${step.name} ended with code ${code}${ending === null ? "" : ` (${ending})`}; once that is mended: ${
        commandText(step.name.includes("/") ? step.name : `e2e/${step.name}`, args, form)
      }`,
    );
  }
  const next = code === 0 ? nextCommand(step.name, out, form) : null;
  if (next !== null) console.error(`Next: ${next}`);
  return code;
}

/** Launches the program that does the work. */
export async function launch(
  program: string,
  args: readonly string[],
  form: CallForm,
): Promise<{ readonly code: number }> {
  return { code: await runExample(program, args, form) };
}

/** Flags without some of them. */
export function without<S extends Record<string, Flag>, const K extends keyof S & string>(
  flags: S,
  names: readonly K[],
): Omit<S, K> {
  return Object.fromEntries(
    Object.entries(flags).filter(([name]) => !(names as readonly string[]).includes(name)),
  ) as Omit<S, K>;
}

/** Flags with other defaults. */
export function withOther<S extends Record<string, Flag>>(
  flags: S,
  defaults: Readonly<Partial<Record<keyof S, string | number>>>,
): S {
  return ofRun(flags, defaults as Record<string, Value>);
}
