/**
 * Settings that all parties of a run share.
 *
 * @module
 */

import { checkLora, checkOptimizer, type LoraSettings, type OptimizerSettings } from "../lora/settings.ts";
import { MAX_MICRO_BATCHES } from "../contracts/micro_batches.ts";

/**
 * What a run is for: training, after which the data device may generate, or generation with what the
 * devices' heads have learnt before.
 */
export type RunTask = "train" | "generate";

/**
 * Settings that all machines of a run share.
 *
 * @category Training
 */
export interface RunSettings {
  /** LoRA. */
  readonly lora: LoraSettings;
  /** Optimizer. */
  readonly optimizer: OptimizerSettings;
  /** Training steps. */
  readonly steps: number;
  /** Seed of everything that is drawn. */
  readonly seed: number;
  /** Name of the codec that writes the float tensors of a step. @default {"f32"} */
  readonly codec?: string;
  /** Parts that each step's batch is split into, by sequences, so that one computes while others travel. @default {1} */
  readonly microBatches?: number;
  /** False to compute nothing while waiting, as a baseline for comparison. @default {true} */
  readonly overlap?: boolean;
  /**
   * Parts that each training step's batch is split into, by sequences, and that are computed one after the
   * other: memory holds one of them at a time. The gradients are added up, and the heads are updated once.
   *
   * @default {1}
   */
  readonly accumulate?: number;
  /** Largest global norm of a step's gradients, over all kept head modules; `null` does not clip. @default {null} */
  readonly clipNorm?: number | null;
  /**
   * Factor that a pruned head's B (in mode `core`, its core) gets in each step in which it is pruned: it fades away
   * on its device, so that what is evaluated and saved is what still learns. 1 leaves it as it is, 0 clears it.
   *
   * @default {the pruner's, see `Pruner`; 1 without one}
   */
  readonly prunedFade?: number;
  /** Steps from one state to the next, equal on all machines of a run; 0 makes none. @default {0} */
  readonly saveEvery?: number;
  /** What the run is for. @default {"train"} */
  readonly task?: RunTask;
}

/** Most parts of a step that are computed one after the other. */
export const MAX_ACCUMULATE = 4096;

/** What else library and commands begin with, besides `DEFAULT_LORA` and `DEFAULT_OPTIMIZER`. */
export const TRAINING_DEFAULTS = {
  /** Training steps. */
  steps: 400,
  /** Seed of everything that is drawn. */
  seed: 1,
  /** Sequences of a step. */
  batch: 8,
  /** Tokens of a sequence. */
  length: 80,
  /** Label smoothing of training steps. */
  labelSmoothing: 0.1,
  /** Batches of validation data that are evaluated; 0 for all. */
  validBatches: 0,
} as const;

/**
 * Checks run settings.
 *
 * @throws {RangeError} If a number is out of range.
 * @throws {TypeError} If LoRA mode or targets are unknown.
 */
export function checkRunSettings(settings: RunSettings): Required<RunSettings> {
  const { steps, seed, codec = "f32", microBatches = 1, overlap = true } = settings;
  const { accumulate = 1, clipNorm = null, saveEvery = 0, task = "train" } = settings;
  const prunedFade = checkFade(settings.prunedFade);
  if (!Number.isInteger(steps) || steps < 1) {
    throw new RangeError(
      `Cannot use run settings as steps must be a positive integer: current value is ${steps}`,
    );
  }
  if (!Number.isInteger(seed) || seed < 0 || seed > 0xffff_ffff) {
    throw new RangeError(
      `Cannot use run settings as seed must be a 32-bit unsigned integer: current value is ${seed}`,
    );
  }
  if (typeof codec !== "string") {
    throw new TypeError(`Cannot use run settings as codec must be a name: current value is ${typeof codec}`);
  }
  if (!Number.isInteger(microBatches) || microBatches < 1 || microBatches > MAX_MICRO_BATCHES) {
    throw new RangeError(
      `Cannot use run settings as microBatches must be an integer from 1 to ${MAX_MICRO_BATCHES}: current value is ${microBatches}`,
    );
  }
  if (typeof overlap !== "boolean" || (!overlap && microBatches > 1)) {
    throw new TypeError(
      `Cannot use run settings as overlap must be true or false, and true with micro-batches: current value is ${overlap} with ${microBatches}`,
    );
  }
  if (!Number.isInteger(accumulate) || accumulate < 1 || accumulate > MAX_ACCUMULATE) {
    throw new RangeError(
      `Cannot use run settings as accumulate must be an integer from 1 to ${MAX_ACCUMULATE}: current value is ${accumulate}`,
    );
  }
  if (clipNorm !== null && !(Number.isFinite(clipNorm) && clipNorm > 0)) {
    throw new RangeError(
      `Cannot use run settings as clipNorm must be positive, or null for none: current value is ${clipNorm}`,
    );
  }
  if (!Number.isInteger(saveEvery) || saveEvery < 0 || saveEvery > 0xffff_ffff) {
    throw new RangeError(
      `Cannot use run settings as saveEvery must be an integer of at least 0: current value is ${saveEvery}`,
    );
  }
  if (task !== "train" && task !== "generate") {
    throw new TypeError(
      `Cannot use run settings as task must be "train" or "generate": current value is ${
        JSON.stringify(task)
      }`,
    );
  }
  const lora = checkLora(settings.lora);
  const optimizer = checkOptimizer(settings.optimizer);
  return {
    lora,
    optimizer,
    steps,
    seed,
    codec,
    microBatches,
    overlap,
    accumulate,
    clipNorm,
    prunedFade,
    saveEvery,
    task,
  };
}

/**
 * Settings with what a pruner says of them where they say nothing: how what is pruned fades.
 *
 * @param settings The settings.
 * @param pruner The pruner of the run; none if `undefined`.
 */
export function settingsWith(
  settings: RunSettings,
  pruner: { readonly prunedFade?: number } | undefined,
): RunSettings {
  const prunedFade = settings.prunedFade ?? pruner?.prunedFade;
  return prunedFade === undefined ? settings : { ...settings, prunedFade };
}

function checkFade(fade = 1): number {
  if (Number.isFinite(fade) && fade >= 0 && fade <= 1) return fade;
  throw new RangeError(
    `Cannot use run settings as prunedFade must be from 0 to 1: current value is ${fade}`,
  );
}
