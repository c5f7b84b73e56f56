/**
 * A fine-tuning run with everything in this process, and any pruner.
 *
 * @module
 */

import {
  allocateHeads,
  baseNorms,
  type BaseWeights,
  checkPruner,
  dataFingerprint,
  embeddingMean,
  HeadModules,
  type HeadStatistics,
  loadEnds,
  loadLayers,
  LocalData,
  LocalHeads,
  type ModelFolder,
  modelShape,
  type Pruner,
  type PrunerContext,
  type RunSettings,
  runStep,
  sampleSettings,
  validateDecision,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { openModel } from "../flags/model_flags.ts";
import { loadTrainingSet, trainingBatches, type TrainingSet } from "./training_data.ts";

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
  /** See `DATA_FLAGS`. */
  readonly buckets: number;
  /** Sequences per step. */
  readonly batch: number;
  /** Tokens per sequence. */
  readonly length: number;
  /** Capacities of the virtual devices. */
  readonly capacities: readonly number[];
  /** LoRA, optimizer, steps and seed. */
  readonly settings: RunSettings;
}

/** What came of a step. */
export interface LocalStep {
  /** Step number, from 0. */
  readonly step: number;
  /** Loss of the step. */
  readonly loss: number;
  /** Head mask, [L * H], 1 = pruned. */
  readonly mask: Uint8Array;
  /** The pruner's scores, if it gives any. */
  readonly scores: Float32Array | null;
  /** Milliseconds of the whole step. */
  readonly ms: number;
  /** Milliseconds of the pruner with its statistics from the edge server's side. */
  readonly pruneMs: number;
}

/** A loaded model with its base norms and the context that pruners see. */
export interface LocalModel {
  /** The model. */
  readonly model: ModelFolder;
  /** The training data. */
  readonly set: TrainingSet;
  /** ||W||_F per head, [L * H]. */
  readonly baseNorm: Float32Array;
  /** What pruners are told. */
  readonly context: PrunerContext;
}

/** Loads the base model of a run and its data. */
export async function loadLocalModel(options: LocalRunOptions): Promise<LocalModel> {
  const { model, tokenizer } = await openModel(options);
  const { layers, heads } = modelShape(model.config);
  const capacities = [...options.capacities].sort((a, b) => b - a);
  const headsPerDevice = allocateHeads(heads, capacities).map((range) => range.count);
  const set = await loadTrainingSet(options.data, { ...options, tokenizer });
  const { batch, length, buckets, baseWeights } = options;
  const context = {
    ...{ layers, heads, headsPerDevice, capacities },
    seed: options.settings.seed,
    settings: sampleSettings(options.settings, {
      ...{ batch, length, buckets, baseWeights },
      data: await dataFingerprint(set, "in an order by the seed"),
    }),
  };
  return { model, set, baseNorm: baseNorms(model), context };
}

/** Runs all steps and yields what came of each; the pruner is asked as an edge server asks it. */
export async function* localRun(
  engine: Engine,
  { model, set, baseNorm, context }: LocalModel,
  options: LocalRunOptions,
  pruner: Pruner,
): AsyncGenerator<LocalStep> {
  checkPruner(pruner);
  const { settings, batch, buckets, baseWeights } = options;
  const batches = trainingBatches(set, { batch, seed: settings.seed, buckets });
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEnds(engine, model, { baseWeights });
  const { layers, heads, hidden } = base.shape;
  const devices = allocateHeads(heads, [...context.capacities]).map((range) =>
    new HeadModules(engine, { ...settings, layers, heads, hidden, range })
  );
  using local = new LocalHeads(devices, pruner.needs, settings.clipNorm);
  const source = () => ({ batch: batches.next(), mode: "train" as const });
  const data = new LocalData(ends, { labelSmoothing: 0.1 }, source, settings.accumulate);
  let state = pruner.init(context);
  let statistics: HeadStatistics = {};
  let lastMask: Uint8Array | null = null;
  for (let step = 0; step < settings.steps; step++) {
    const started = performance.now();
    const batch = (await data.next(step))!;
    engine.flush();
    const pruneStarted = performance.now();
    const needs = (name: Pruner["needs"][number]) => pruner.needs.includes(name);
    const [decision, next] = await pruner.decide(
      {
        step,
        lastMask,
        gradientNorm: needs("gradientNorm") ? statistics.gradientNorm ?? null : null,
        loraNorm: needs("loraNorm") ? statistics.loraNorm ?? null : null,
        baseNorm: needs("baseNorm") ? baseNorm : null,
        embeddingMean: needs("embeddingMean") ? await embeddingMean(batch) : null,
      },
      state,
      context,
    );
    state = next;
    const { mask, scores } = validateDecision(pruner, decision, context);
    const pruneMs = performance.now() - pruneStarted;
    const outcome = await runStep({ engine, base, heads: local, data }, step, batch, mask);
    await engine.idle();
    statistics = outcome.statistics;
    lastMask = mask;
    yield {
      step,
      loss: outcome.loss!,
      mask,
      scores: scores ?? null,
      ms: performance.now() - started,
      pruneMs,
    };
  }
}
