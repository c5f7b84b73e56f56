/**
 * Settings that fit a model and its data, for whoever gives none.
 *
 * @module
 */

import type { ModelShape } from "../contracts/model_shape.ts";
import { INPUT_MODES, type InputModeName } from "../lora/input_modes.ts";
import { DEFAULT_LORA } from "../lora/settings.ts";
import type { ModelConfig } from "../model/families.ts";
import { contextLength, modelShape } from "../model/load.ts";

/** Settings that depend on the model, on how long the run is, and on the data. */
export interface FittingSettings {
  /** Peak learning rate. */
  readonly learningRate: number;
  /** Steps over which the learning rate rises from 0. */
  readonly warmupSteps: number;
  /** r, LoRA rank of a head module. */
  readonly rank: number;
  /** Label smoothing of training steps. */
  readonly labelSmoothing: number;
  /** Tokens of a sequence. */
  readonly length: number;
  /** Sequences of a step. */
  readonly batch: number;
  /** Strength of the greedy pruner and iHeadPruner. */
  readonly pruning: {
    /** Share of a layer's importance to keep. */
    readonly tau: number;
    /** Share of pruned heads above which the whole layer is pruned. */
    readonly eta: number;
  };
}

/** What settings are chosen by. */
export interface FittingOptions {
  /** What head modules read of X, which decides the rate. @default {that of DEFAULT_LORA} */
  readonly mode?: InputModeName | undefined;
  /** L, H and d of the model. */
  readonly shape: Pick<ModelShape, "layers" | "heads" | "hidden">;
  /** Training steps. */
  readonly steps: number;
  /** Tokens of each sequence of the data, or of some of them. @default {none: a length for short texts} */
  readonly lengths?: readonly number[] | undefined;
  /** Tokens that the model takes at most. @default {no limit} */
  readonly positions?: number | undefined;
}

/** Models of so many heads are pruned as in the paper, whose model has 24 layers of 16; smaller ones less. */
const PAPER_HEADS = 24 * 16;
/** From this hidden size on a model has learnt its language: smoothing would spoil what it predicts well. */
const PRETRAINED_HIDDEN = 512;
/** Tokens of a sequence and of a step that are taken for short texts. */
const SHORT = { length: 80, batch: 8 };
/** Longest sequences that are chosen, and most tokens of a step. */
const LONGEST = 512, MOST_TOKENS = 1024;
/** Share of sequences that may be cut. */
const MAY_BE_CUT = 0.1;

/**
 * Chooses settings. Each mode has a rate of its own. In `full` and `slice` it falls with the hidden size, as 1 / d: a
 * change of one size in each number of A changes A x by a sum over d inputs. In `core` it does not. It does not depend on the rank, as Deltas are multiplied by alpha / rank and alpha
 * stays. `docs/choosing_settings.md` has what was measured.
 *
 * @param options Model, steps and data.
 *
 * @example
 * ```ts
 * import { fittingSettings } from "@edgetuner/core";
 *
 * const { learningRate } = fittingSettings({ shape: { layers: 30, heads: 9, hidden: 576 }, steps: 400 });
 * console.log(learningRate);
 * ```
 */
export function fittingSettings(options: FittingOptions): FittingSettings {
  const { shape: { layers, heads, hidden }, steps, mode = DEFAULT_LORA.mode } = options;
  const length = lengthFor(options);
  const isSmall = layers * heads < PAPER_HEADS;
  return {
    learningRate: Number(INPUT_MODES[mode].learningRate({ heads, hidden }).toPrecision(2)),
    warmupSteps: Math.min(steps, Math.max(10, Math.round(steps / 40))),
    rank: heads > 16 ? 4 : 8,
    labelSmoothing: hidden < PRETRAINED_HIDDEN ? 0.1 : 0,
    length,
    batch: Math.max(1, Math.min(SHORT.batch, Math.floor(MOST_TOKENS / length))),
    pruning: isSmall ? { tau: 0.9, eta: 0.6 } : { tau: 0.7, eta: 0.4 },
  };
}

/** The length of short texts, or a multiple of 16 that most of longer ones fit in. */
function lengthFor({ lengths = [], positions = Infinity }: FittingOptions): number {
  const sorted = [...lengths].sort((a, b) => a - b);
  const most = sorted[Math.ceil((1 - MAY_BE_CUT) * sorted.length) - 1] ?? 0;
  const wanted = Math.max(SHORT.length, Math.min(LONGEST, 16 * Math.ceil(most / 16)));
  return Math.min(wanted, positions);
}

/** As {@linkcode fittingSettings}, of a model as it was loaded. */
export function fittingSettingsOf(
  config: ModelConfig,
  options: Omit<FittingOptions, "shape" | "positions">,
): FittingSettings {
  return fittingSettings({ ...options, shape: modelShape(config), positions: contextLength(config) });
}
