/**
 * The fields of the larger messages, as types; `MESSAGES` says what values they take.
 *
 * @module
 */

import type { ModelShape } from "../contracts/model_shape.ts";
import type { LoraSettings, OptimizerSettings } from "../lora/settings.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";

/** Some neighbours of a row: heads of a layer, or columns. */
export interface RangeMeta {
  /** The first of them. */
  readonly first: number;
  /** How many. */
  readonly count: number;
}

/** Who a device is, and what it brings. */
export interface HelloMeta {
  /** Name for people, 1 to 64 characters. */
  readonly name: string;
  /** Who it is, whatever its name: 8 to 64 characters, random, kept by the device. @default {none} */
  readonly id?: string;
  /** Public key of its id, which it can prove to have: Ed25519 in base64url. @default {none} */
  readonly key?: string;
  /** gamma; 0 without heads. */
  readonly capacity: number;
  /** True for the data device. */
  readonly data: boolean;
  /** Fingerprint of the data device's model; else empty. */
  readonly fingerprint: string;
  /** True if the data device tells the loss of each step. */
  readonly sharesLoss: boolean;
  /** States of a run that goes on. */
  readonly states?: { readonly run: string; readonly steps: readonly number[] };
  /** Where it comes back: a training step of which it has all but the last gradients, or their factor. */
  readonly unfinished?: number;
  /** What the run must be for. @default {"train"} */
  readonly task?: "train" | "generate";
  /** Heads that it has learnt before, in generation. */
  readonly learnt?: { readonly range: RangeMeta; readonly lora: LoraSettings };
  /** How the model must be divided. @default {"split"} */
  readonly system?: "split" | "tensorParallel";
  /** Bytes of memory for a share, in tensor parallelism. */
  readonly memory?: number;
}

/** What a device says when it has no further batch. */
export interface FinishedMeta {
  /** True if the head modules before it are the best so far. */
  readonly best?: boolean;
  /** Mean loss of its whole validation data, where several owners are validated together and it tells no batch's. */
  readonly loss?: number;
  /** Tokens that this is the mean of. */
  readonly counted?: number;
}

/** Settings of a run, complete; see `RunSettings`. */
export interface SettingsMeta {
  /** LoRA. */
  readonly lora: LoraSettings;
  /** Optimizer. */
  readonly optimizer: OptimizerSettings;
  /** Training steps. */
  readonly steps: number;
  /** Seed of everything that is drawn. */
  readonly seed: number;
  /** Name of the codec. */
  readonly codec: string;
  /** Parts of a batch that overlap. */
  readonly microBatches: number;
  /** False to compute nothing while waiting. */
  readonly overlap: boolean;
  /** Parts of a step that are computed one after the other. */
  readonly accumulate: number;
  /** Largest global norm of a step's gradients; `null` for none. */
  readonly clipNorm: number | null;
  /** Factor a step of a pruned head's B. */
  readonly prunedFade: number;
  /** Steps from one state to the next; 0 for none. */
  readonly saveEvery: number;
  /** What the run is for. */
  readonly task: "train" | "generate";
}

/** The run begins. */
export interface WelcomeMeta {
  /** Name of the run. */
  readonly run: string;
  /** Its settings. */
  readonly settings: SettingsMeta;
  /** Shape of the model: layers, heads of each, hidden size; head size if it is not hidden size / heads. */
  readonly model: ModelShape;
  /** The device's heads; `null` for none. */
  readonly range: RangeMeta | null;
  /** Statistics that it sends after each step. */
  readonly statistics: readonly DeviceStatistic[];
  /** Training steps done before. @default {0} */
  readonly start?: number;
  /** True if steps may begin again: the device keeps its state of before each update. @default {false} */
  readonly repeats?: boolean;
  /**
   * The device comes back: training steps that its heads took part in at most, and what they learnt after them does not
   * count. @default {it has not been away}
   */
  readonly trained?: number;
  /** Where it was away: the training step that it is to finish first; what it lacks of it follows. */
  readonly finishes?: number;
  /** Training steps before that its heads have missed while it was away. @default {0} */
  readonly missed?: number;
  /**
   * Where several people's data takes turns: whether a turn is a whole step, or parts of one.
   *
   * @default {the device's own data is the only one, and it says what comes next}
   */
  readonly turns?: "steps" | "parts";
  /** Columns of the feed-forward network, in tensor parallelism. */
  readonly columns?: RangeMeta | null;
  /** Added to the norms' variances, in tensor parallelism. */
  readonly epsilon?: number;
}

/** The run is over. */
export interface EndMeta {
  /** Why; empty if it ran to its end. */
  readonly reason: string;
  /** True if a number was not finite: the same error for everyone. */
  readonly diverged?: boolean;
  /** True if that number was another device's: what the receiver has learnt is good. */
  readonly elsewhere?: boolean;
  /** True if somebody stopped the run, also where a step was not over. */
  readonly stopped?: boolean;
  /** Training steps done, if the run ended without a fault. */
  readonly step?: number;
  /** True if the head modules at the end are the best of the run. */
  readonly best?: boolean;
  /** Heads of every layer whose devices are away at the end. */
  readonly away?: readonly number[];
  /** Training steps that each head missed as its device was away, [H]. */
  readonly missed?: readonly number[];
}

/** Of E of a batch. */
export interface EmbeddingMeta {
  /** What the step is for. */
  readonly mode: "train" | "evaluate";
  /** Part of the step, and how many there are. @default {the whole step} */
  readonly part?: readonly [number, number];
  /** True if the head modules are the best so far. */
  readonly best?: boolean;
  /** Where others give parts of the step too: tokens that the loss of this device's parts counts. */
  readonly counted?: number;
}

/** Of the last hidden state. */
export interface HiddenMeta {
  /** True if it is that of a probe. */
  readonly probe?: boolean;
  /** True if a state follows the step. */
  readonly save?: boolean;
  /** Where others give parts of the step too: tokens that the loss of the whole step is the mean of. */
  readonly counted?: number;
  /** In evaluation and generation: heads of every layer whose devices are away. */
  readonly away?: readonly number[];
}

/** Nothing is asked for now. */
export interface PausedMeta {
  /** True if the run goes on and others take their turns. */
  readonly others?: boolean;
}

/** The next step is a device's turn. */
export interface TurnMeta {
  /** What for; to generate once all steps are done. */
  readonly mode: "train" | "evaluate" | "generate";
  /** Number of the device's batch: of those that it has trained on, or of its validation data. */
  readonly position: number;
  /** Where a step is mixed of several owners' parts: how many are this device's. @default {the step is its own} */
  readonly parts?: number;
}

/** A step begins, or another part of it. */
export interface MaskMeta {
  /** What the step is for. */
  readonly mode: "train" | "evaluate" | "probe";
  /** The lowest layer with a kept head on any device: it sends no gradient of X. */
  readonly lowest: number;
  /** Rows of each micro-batch. */
  readonly rows: readonly number[];
  /** Part, how many there are, and its first row in the step. @default {the whole step} */
  readonly part?: readonly [number, number, number];
  /** True if the head modules are the best so far. */
  readonly best?: boolean;
  /** Where they are the best: heads of every layer that were away in the validation. */
  readonly away?: readonly number[];
  /** True if a state follows the step. */
  readonly save?: boolean;
}

/** Of a block's input in tensor parallelism: mode and size of the step come with the first block. */
export interface ActivationMeta {
  /** What the step is for. */
  readonly mode?: "train" | "evaluate";
  /** Sequences. */
  readonly batch?: number;
  /** Tokens of each. */
  readonly length?: number;
}

/** Of an answer of a device. */
export interface AnswerMeta {
  /**
   * Microseconds in which the device had the question, in eight hexadecimal digits: its computing, without the wire.
   *
   * @default {the device does not tell}
   */
  readonly took?: string;
}

/** Of the loss of a step. */
export interface LossMeta extends AnswerMeta {
  /** The loss. */
  readonly loss: number;
  /** Of a validation batch: how many tokens it is the mean of. */
  readonly counted?: number;
}

/** No fields. */
export type NoMeta = Readonly<Record<never, never>>;
