/**
 * Flags of programs whose runs may be long: steps in parts, clipping, checkpoints.
 *
 * @module
 */

import {
  type BaseWeights,
  type CheckpointSource,
  checkpointWriter,
  headParameters,
  type LoraSettings,
  MAX_ACCUMULATE,
  openCheckpoints,
  requireSameRun,
  type RunCheckpoint,
  type RunSettings,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text, UsageError } from "./flags.ts";

/** Where a party of a run saves its state, and what it goes on from. */
export const CHECKPOINT_FLAGS = {
  checkpoint: text("DIR", "", "folder for checkpoints, of which the last two are kept"),
  resume: text(
    "PATH",
    "",
    "go on from a checkpoint, or from a folder of them, in which the run saves on; other flags as before",
  ),
};

/** Flags of whoever says what the settings of the run are. */
export const RUN_FLAGS = {
  accumulate: integer(
    "N",
    1,
    "parts of each step, of --batch sequences each, computed one after the other; the heads are updated once",
    { min: 1, max: MAX_ACCUMULATE },
  ),
  "clip-norm": number("X", 0, "largest global norm of a step's gradients; 0 = no limit", { min: 0 }),
  "checkpoint-every": integer("N", 100, "steps from one checkpoint to the next, if there are any", {
    min: 1,
  }),
  ...CHECKPOINT_FLAGS,
};

/** Run settings that these flags ask for. */
export function runSettings(
  flags: FlagValues<typeof RUN_FLAGS>,
): Pick<RunSettings, "accumulate" | "clipNorm" | "checkpointEvery"> {
  const saves = flags.checkpoint !== "" || flags.resume !== "";
  return {
    accumulate: flags.accumulate,
    clipNorm: flags["clip-norm"] === 0 ? null : flags["clip-norm"],
    checkpointEvery: saves ? flags["checkpoint-every"] : 0,
  };
}

/** What a party goes on from and saves to. */
export interface RunCheckpoints {
  /** Checkpoints to go on from; `null` in a new run. */
  readonly resumed: CheckpointSource | null;
  /** Writes a checkpoint; `null` if there is no folder for them. */
  readonly write: ((checkpoint: RunCheckpoint) => Promise<void>) | null;
}

/**
 * Opens what the flags name.
 *
 * @param flags The flags.
 * @param baseWeights How the base is held, which is noted; `undefined` on a device that has none.
 * @throws {CheckpointError} If there is nothing to go on from, the base was held otherwise, or checkpoints of
 * another run would be lost.
 */
export async function openRunCheckpoints(
  { checkpoint, resume }: FlagValues<typeof CHECKPOINT_FLAGS>,
  baseWeights: BaseWeights | undefined,
): Promise<RunCheckpoints> {
  const resumed = resume === "" ? null : await openCheckpoints(resume);
  if (resumed !== null) {
    const newest = resumed.steps.at(-1)!;
    requireSameRun(await resumed.load(newest), { baseWeights });
    for (const { message } of resumed.damaged ?? []) {
      console.error(`${message}; going on from an older one, of step ${newest} or before.`);
    }
  }
  let folder = checkpoint;
  if (folder === "" && resume !== "") {
    folder = (await Deno.stat(resume)).isDirectory ? resume : resume.replace(/[^/\\]*$/, "") || ".";
  }
  if (folder === "") return { resumed, write: null };
  const write = await checkpointWriter(folder, resumed);
  return { resumed, write: (saved) => write({ ...saved, baseWeights }) };
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
  shape: { readonly layers: number; readonly heads: number; readonly hidden: number },
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

/** Refuses a flag that needs another one. */
export function requireFlag(program: string, flag: string, needed: string, isThere: boolean): void {
  if (!isThere) {
    throw new UsageError(`Cannot run ${program} as --${flag} needs --${needed}: it is not given`);
  }
}
