/**
 * Flags of programs whose runs may be long: steps in parts, clipping, states.
 *
 * @module
 */

import {
  type BaseWeights,
  headParameters,
  type LoraSettings,
  MAX_ACCUMULATE,
  type ModelShape,
  openRunFolder,
  requireSameRun,
  type RunSettings,
  type RunState,
  RunStateError,
  type RunStateSource,
  type SavingTimes,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text, textOrAlone, UsageError } from "./flags.ts";

/** What `--resume` alone means. */
export const NEWEST = "newest";

/** Where a party of a run saves its state, and what it goes on from. */
export const STATE_FLAGS = {
  state: text(
    "DIR",
    "",
    'folder for the state of the run, of which the last two are kept; "" for none',
  ),
  resume: textOrAlone(
    "PATH",
    "",
    NEWEST,
    "go on with a run, other flags as before: from a state, a folder of them, or alone from the newest in --state",
  ),
};

/** As `STATE_FLAGS`, with a folder that is taken where none is named. */
export function stateFlags(folder: string): typeof STATE_FLAGS {
  const { state, resume } = STATE_FLAGS;
  return { state: { ...state, default: folder }, resume };
}

/** Flags of whoever says what the settings of the run are. */
export const RUN_FLAGS = {
  accumulate: integer(
    "N",
    1,
    "parts of each step, of --batch sequences each, computed one after the other; the heads are updated once",
    { min: 1, max: MAX_ACCUMULATE },
  ),
  "clip-norm": number("X", 0, "largest global norm of a step's gradients; 0 = no limit", { min: 0 }),
  "state-every": integer("N", 0, "steps from one saved state to the next; 0 = by --state-seconds", {
    min: 0,
  }),
  "state-seconds": number(
    "S",
    5,
    "seconds from one saved state to the next, more where saving takes above 1 % of the time; 0 = only at the end",
    { min: 0 },
  ),
  ...STATE_FLAGS,
};

/** Flags of programs that show how far a run is. */
export const PROGRESS_FLAGS = {
  "log-every": number(
    "S",
    10,
    "off a terminal: seconds from one line about the steps to the next; 0 = a line a step",
    {
      min: 0,
    },
  ),
};

/** Flags of programs that launchers start, see `supervisor.ts`. */
export const LAUNCHER_FLAGS = {
  "end-with": integer("PID", 0, "for launchers: end without a fault when this parent process is gone", {
    min: 0,
  }),
};

/** Run settings that these flags ask for. */
export function runSettings(
  flags: FlagValues<typeof RUN_FLAGS>,
): Pick<RunSettings, "accumulate" | "clipNorm" | "saveEvery"> {
  const saves = flags.state !== "" || flags.resume !== "";
  return {
    accumulate: flags.accumulate,
    clipNorm: flags["clip-norm"] === 0 ? null : flags["clip-norm"],
    saveEvery: saves ? flags["state-every"] : 0,
  };
}

/** What a party goes on from and saves to; nobody else's until it is disposed or the program ends. */
export interface RunStates extends Disposable {
  /** States to go on from; `null` in a new run. */
  readonly resumed: RunStateSource | null;
  /** Where states go; `null` if nothing is saved. */
  readonly folder: string | null;
  /** Writes a state; `null` if there is no folder for them. */
  readonly write: ((state: RunState) => Promise<void>) | null;
}

/** What `claimRunStates` must know of the program. */
export interface RunStatesOptions {
  /** How the base is held, which is noted; `undefined` on a device that has none. */
  readonly baseWeights: BaseWeights | undefined;
  /** The folder that is taken where none is named; another one beside it may be taken instead. @default {none} */
  readonly defaultFolder?: string | undefined;
  /** Of several states in folders beside each other: which fit. @default {all} */
  readonly fits?: ((state: RunState) => boolean) | undefined;
}

/**
 * Opens what the flags name, and claims the folder.
 *
 * @throws {UsageError} If `--resume` stands alone and there is no folder.
 * @throws {RunStateError} If there is nothing to go on from, the base was held otherwise, or the state of another
 * run would be lost.
 * @throws {SaveError} If another program uses the folder.
 */
export async function claimRunStates(
  { state, resume }: FlagValues<typeof STATE_FLAGS>,
  { baseWeights, defaultFolder = "", fits }: RunStatesOptions,
): Promise<RunStates> {
  if (state === "" && resume === "") {
    return { resumed: null, folder: null, write: null, [Symbol.dispose]: () => {} };
  }
  if (state === "" && resume === NEWEST) {
    throw new UsageError(
      "Cannot go on with a run as --resume alone needs the folder of --state: it has none",
    );
  }
  const folder = await openRunFolder({
    folder: state,
    isDefault: state === defaultFolder,
    resume: resume === "" ? null : resume,
    fits,
    tell: (line) => console.error(line),
  }).catch((cause) => {
    if (resume !== "" || !(cause instanceof RunStateError)) throw cause;
    const next = "--resume goes on with what is there, another --state begins anew";
    throw new RunStateError(`${cause.message}; ${next}`, { cause });
  });
  const { resumed } = folder;
  try {
    if (resumed !== null) {
      const newest = resumed.steps.at(-1)!;
      requireSameRun(await resumed.load(newest), { baseWeights });
      for (const { message } of resumed.damaged ?? []) {
        console.error(`${message}; going on from an older one, of step ${newest} or before.`);
      }
    }
  } catch (error) {
    folder[Symbol.dispose]();
    throw error;
  }
  return {
    resumed,
    folder: folder.path,
    write: (saved) => folder.write({ ...saved, baseWeights }),
    [Symbol.dispose]: () => folder[Symbol.dispose](),
  };
}

/** What saving took of a run, for reports. */
export interface SavingReport {
  /** States saved. */
  readonly count: number;
  /** Seconds for which the run stood still. */
  readonly blockedSeconds: number;
  /** Seconds of writing, most of them beside the steps. */
  readonly writingSeconds: number;
  /** Share of the run for which it stood still. */
  readonly share: number;
}

/** Puts together what saving took of a run of so many milliseconds. */
export function savingReport({ count, blockedMs, writingMs }: SavingTimes, runMs: number): SavingReport {
  return {
    count,
    blockedSeconds: blockedMs / 1000,
    writingSeconds: writingMs / 1000,
    share: runMs > 0 ? blockedMs / runMs : 0,
  };
}

/** How many numbers a run trains. */
export interface ParameterCounts {
  /** Numbers of all head modules. */
  readonly trainable: number;
  /** Numbers of the base model. */
  readonly base: number;
  /** trainable / base. */
  readonly share: number;
}

/** Counts what all head modules of a model have, beside what the base model has. */
export function countParameters(
  lora: LoraSettings,
  shape: ModelShape,
  base: number,
): ParameterCounts {
  const trainable = shape.layers * shape.heads * headParameters(lora, shape);
  return { trainable, base, share: trainable / base };
}

/** Counts as people read them. */
export function parameterText({ trainable, base, share }: ParameterCounts): string {
  const grouped = (count: number) => count.toLocaleString("en");
  return `${grouped(trainable)} trainable parameters, ${(100 * share).toPrecision(3)} % of the base model's ${
    grouped(base)
  }`;
}

/**
 * Refuses a flag that needs another one.
 *
 * @param program The command, for the message.
 * @throws {UsageError} If the flag is given without the one that it needs.
 */
export function requireFlag(
  program: string,
  { flag, needs, isMet }: { readonly flag: string; readonly needs: string; readonly isMet: boolean },
): void {
  if (!isMet) throw new UsageError(`Cannot run ${program}: --${flag} needs --${needs} too`);
}
