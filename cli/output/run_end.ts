/**
 * What a program says at the end of a run: why it ended, what was saved, and the command that goes on.
 *
 * @module
 */

import type { Call } from "../process/invocation.ts";
import { type BestLoss, type LossesAtEnds, openRunStates } from "@edgetuner/core";
import { type EndingName, endingOf, ENDINGS } from "../process/exit_codes.ts";
import { adviceFor, type MemoryFlags } from "../flags/memory_advice.ts";
import { commandText } from "../process/places.ts";

/** The end of a run, as a program knows it. */
export interface RunEnd {
  /** How it ended. */
  readonly ending: EndingName;
  /** Why, in one line; empty if it is done. */
  readonly why: string;
  /** What to turn so that it does not end so again, a line each. */
  readonly advice?: readonly string[];
  /** What was done, such as `60 steps`. */
  readonly done: string;
  /** Losses before and after, as far as they are known. */
  readonly losses?: LossesAtEnds | null;
  /** The best validation, if there was one. */
  readonly best?: BestLoss | null;
  /** What to turn if the loss rose, such as `--rate`; by default the flags of a program that has the settings. */
  readonly turns?: string;
  /** The command to try next, once all is done. */
  readonly next?: string;
  /** What was saved, and where. */
  readonly saved: readonly string[];
  /** Where the run can go on from; `null` if there is nothing to go on from. */
  readonly state: SavedState | null;
  /** The command that goes on; empty if there is none. */
  readonly command: string;
}

/** State of a run on the disk. */
export interface SavedState {
  /** Its folder. */
  readonly folder: string;
  /** Steps that it holds. */
  readonly step: number;
}

/** The newest state of a run in a folder, as the disk has it; `null` if there is none, or only another run's. */
export async function savedState(folder: string, run: string): Promise<SavedState | null> {
  if (folder === "") return null;
  try {
    const found = await openRunStates(folder);
    return found.run === run ? { folder, step: found.steps.at(-1)! } : null;
  } catch {
    return null;
  }
}

/** Arguments without some flags that take a value, or may stand alone. */
export function withoutFlags(args: readonly string[], names: readonly string[]): string[] {
  const isOne = (arg: string) => names.some((name) => arg === `--${name}`);
  return args.filter((arg, i) => {
    if (isOne(arg) || names.some((name) => arg.startsWith(`--${name}=`))) return false;
    return i === 0 || arg.startsWith("--") || !isOne(args[i - 1]!);
  });
}

/**
 * The command that goes on with a run: the program's own flags, and where from.
 *
 * @param call How the program was called.
 * @param program File in `examples/`.
 * @param state What to go on from; without one the command is the same again.
 * @param fixed Flags that must be as they were, whatever their defaults are next time.
 */
export function goOnCommand(
  call: Call,
  program: string,
  state: SavedState | null,
  fixed: Readonly<Record<string, string>> = {},
): string {
  const own = Object.entries(fixed).flatMap(([name, value]) => [`--${name}`, value]);
  const kept = withoutFlags(call.args, [
    ...Object.keys(fixed),
    ...(state === null ? [] : ["state", "resume"]),
  ]);
  const goesOn = state === null ? [] : ["--resume", state.folder];
  return commandText(program, [...kept, ...own, ...goesOn], call.form);
}

/** What to turn where the loss rose, in the order in which to try. */
const TURNS = "a smaller --rate, a longer --warmup, or --clip-norm 1";

/** How much higher a training loss must be to count as risen: it is that of one batch, and batches differ. */
const NOISE = 1.05;

/** Errors of a run that was refused before its first step, by name: those of workers come as messages. */
const REFUSED: ReadonlySet<string> = new Set(["ModelFileError", "RunStateError"]);

/** A plain sentence if the loss rose, or has risen since its best; `null` if it did not. */
export function roseText({ losses = null, best = null, turns = TURNS }: RunEnd): string | null {
  if (losses === null) return null;
  const { kind, before, after } = losses;
  const isNoisy = kind === "training loss";
  if (after > before * (isNoisy ? NOISE : 1)) {
    return `The ${kind} rose: the run made the model worse. Try ${turns}.`;
  }
  if (isNoisy || best === null || best.step === 0 || after <= best.loss) return null;
  return `The validation loss has risen since its best, after ${best.step} steps: the model learns the training data by heart. ` +
    "Try fewer --steps, more data, or --keep-best.";
}

/** The end in words: the first line says how it ended, further ones what is left of it. */
export function endText(end: RunEnd): string[] {
  const { losses = null } = end;
  const numbers = losses === null
    ? ""
    : `, ${losses.kind} ${losses.before.toFixed(3)} before and ${losses.after.toFixed(3)} after`;
  const word = end.ending === "done" ? "Done" : end.ending === "interrupted" ? "Stopped" : "Ended too early";
  const why = end.why === "" ? "" : ` (${end.why})`;
  const lines = [`${word}: ${end.done}${numbers}${end.ending === "interrupted" ? why : ""}`];
  const { best = null } = end;
  if (best !== null) {
    const when = best.step === 0 ? "before the first step" : `after ${best.step} steps`;
    lines.push(`Best: validation loss ${best.loss.toFixed(3)} ${when}`);
  }
  const rose = roseText(end);
  if (rose !== null) lines.push(rose);
  if (end.saved.length > 0) lines.push(`Saved: ${end.saved.join("; ")}`);
  else if (end.ending !== "done") lines.push("Saved: nothing");
  if (end.ending === "done" && (end.next ?? "") !== "") lines.push(`Next: ${end.next}`);
  if (end.ending === "done" || end.command === "") return lines;
  lines.push(
    end.state === null
      ? `Again from the start: ${end.command}`
      : `Go on from step ${end.state.step}: ${end.command}`,
  );
  return lines;
}

/**
 * Says how a run ended. On standard error: standard output has what was asked for.
 *
 * @param end The end.
 * @param options `isQuiet` says only why it ended too early, as where events are printed.
 * @returns The exit code.
 */
export function tellEnd(end: RunEnd, { isQuiet = false }: { readonly isQuiet?: boolean } = {}): number {
  const isGood = end.ending === "done" || end.ending === "interrupted";
  if (!isGood && end.why !== "") {
    console.error(end.why);
    for (const line of end.advice ?? []) console.error(line);
  }
  if (!isQuiet) { for (const line of endText(end)) console.error(line); }
  return ENDINGS[end.ending].code;
}

/** Says how a command went that always comes to its end or throws; on standard error, as `tellEnd`. */
export function tellDone(end: Pick<RunEnd, "done" | "saved" | "losses" | "best" | "next">): void {
  const ended = { ending: "done", why: "", state: null, command: "" } as const;
  for (const line of endText({ ...end, ...ended })) console.error(line);
}

/** True if the same run may come further: one that diverged would diverge again, with one device's fault it need not. */
export function mayGoOn(error: unknown): boolean {
  if (!(error instanceof Error && error.name === "TrainingError")) return true;
  return "device" in error && error.device !== null;
}

/**
 * Says what is left of a run that an error ended, if it has saved its state.
 *
 * @param program File in `examples/`.
 * @param at Where it saves its state, empty if nowhere, its name, and the flags that its memory depends on.
 * @returns The exit code.
 * @throws The error, if there is no state.
 */
export async function endedBy(
  call: Call,
  program: string,
  error: unknown,
  at: { readonly folder: string; readonly run: string; readonly flags: MemoryFlags },
): Promise<number> {
  const state = await savedState(at.folder, at.run);
  // What does not fit the state was refused before the first step: nothing ended.
  const isRefused = endingOf(error) === "usage" ||
    (error instanceof Error && REFUSED.has(error.name));
  if (state === null || isRefused) throw error;
  return tellEnd({
    ending: endingOf(error),
    why: error instanceof Error ? error.message : String(error),
    advice: await adviceFor(error, { flags: at.flags }),
    done: `at least ${state.step} steps`,
    saved: [`the state of step ${state.step} in ${state.folder}`],
    state,
    command: mayGoOn(error) ? goOnCommand(call, program, state) : "",
  });
}

/**
 * Says that a run never began, if that is what the error means, and how to try again.
 *
 * @returns The exit code.
 * @throws The error, if it is another one.
 */
export function neverBegan(call: Call, program: string, error: unknown): number {
  const ending = endingOf(error);
  if (ending !== "lost") throw error;
  console.error((error as Error).message);
  console.error(`Nothing was done; again: ${goOnCommand(call, program, null)}`);
  return ENDINGS[ending].code;
}

/** The end for programs that read it. */
export function endJson({ ending, why, state, command }: RunEnd): Record<string, unknown> {
  return { ending, why, state, command };
}
