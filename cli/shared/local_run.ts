/**
 * A fine-tuning run with everything in this process, and any pruner.
 *
 * @module
 */

import {
  allocateHeads,
  baseNorms,
  baseProjections,
  type BaseWeights,
  dataFingerprint,
  loadEmbeddingAndHead,
  loadLayers,
  LocalTraining,
  type ModelFolder,
  modelShape,
  type Pruner,
  type PrunerContext,
  type RunSettings,
  sampleSettings,
  type TrainerEvent,
  trainingBatches,
  type TrainingData,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { loadTrainingSet } from "./training_data.ts";
import { openTold } from "./opened_model.ts";

/** What a run needs. */
export interface LocalRunOptions {
  /** The base model: its folder, or a GGUF file. */
  readonly model: string;
  /** Its tokenizer, if it is elsewhere; else empty. */
  readonly tokenizer: string;
  /** What the base weights are kept as. */
  readonly baseWeights: BaseWeights;
  /** Training data. */
  readonly data: string;
  readonly "train-on-prompt": boolean;
  readonly "skip-bad": boolean;
  readonly map?: string;
  readonly "data-format"?: string;
  /** See `DATA_FLAGS`. */
  readonly padToMultipleOf: number;
  /** Sequences per step. */
  readonly batch: number;
  /** Tokens per sequence. */
  readonly length: number;
  /** Capacities of the virtual devices. */
  readonly capacities: readonly number[];
  /** LoRA, optimizer, steps and seed. */
  readonly settings: RunSettings;
  /** Label smoothing of training steps. */
  readonly smoothing: number;
}

/** A loaded model with its base norms and the context that pruners see. */
export interface LocalModel {
  /** The model. */
  readonly model: ModelFolder;
  /** The training data. */
  readonly set: TrainingData;
  /** ||W||_F per head, [L * H]. */
  readonly baseNorm: Float32Array;
  /** What pruners are told. */
  readonly context: PrunerContext;
}

/** Loads the base model of a run and its data. */
export async function loadLocalModel(options: LocalRunOptions): Promise<LocalModel> {
  const { model, tokenizer } = await openTold(options.model, options);
  const { layers, heads } = modelShape(model.config);
  const capacities = [...options.capacities].sort((a, b) => b - a);
  const headsPerDevice = allocateHeads(heads, capacities).map((range) => range.count);
  const set = await loadTrainingSet(options.data, { ...options, encoder: tokenizer });
  const { batch, length, padToMultipleOf, baseWeights } = options;
  const context = {
    ...{ layers, heads, headsPerDevice, capacities },
    seed: options.settings.seed,
    settings: sampleSettings(options.settings, {
      ...{ batch, length, padToMultipleOf, baseWeights },
      data: await dataFingerprint(set, "in an order by the seed"),
    }),
  };
  return { model, set, baseNorm: baseNorms(model), context };
}

/** Runs all steps, with a pruner, and tells what came of each. */
export async function localRun(
  engine: Engine,
  { model, set, baseNorm, context }: LocalModel,
  options: LocalRunOptions & {
    readonly pruner: Pruner;
    /** Hears what happens; the run waits for it. */
    onEvent(event: TrainerEvent): void | Promise<void>;
  },
): Promise<void> {
  const { settings, batch, padToMultipleOf, baseWeights, smoothing, pruner, onEvent } = options;
  const batches = trainingBatches(set, { batch, seed: settings.seed, padToMultipleOf });
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  using training = new LocalTraining({
    ...{ engine, base, ends, settings, pruner, context, baseNorm, onEvent },
    projections: await baseProjections(model, settings.lora),
    capacities: context.capacities,
    loss: { labelSmoothing: smoothing },
    source: (step) => step < settings.steps ? { batch: batches.next(), mode: "train" } : null,
  });
  await training.trainer.run();
}
