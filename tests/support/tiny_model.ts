/**
 * The small GPT-2 of the PyTorch fixtures, and fine-tuning it with all heads in this process: the
 * reference that networked runs are compared with.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import {
  type BaseLayers,
  type BaseWeights,
  DEFAULT_OPTIMIZER,
  type EmbeddingAndHead,
  type Gpt2Config,
  gpt2Config,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  HeadModules,
  type HeadRange,
  type HeadStatistics,
  type HeadWeights,
  type InputModeName,
  LocalData,
  LocalHeads,
  type LoraSettings,
  type NamedArray,
  readSafetensors,
  type RunSettings,
  runStep,
  type StatisticName,
  type TokenBatch,
} from "@edgetuner/core";

const FOLDER = new URL("../fixtures/parity/", import.meta.url);

/** One pass or run of a LoRA fixture. */
export interface ManifestPass {
  readonly headMask: readonly number[];
  readonly loss: number;
  readonly importance: readonly number[];
}

/** Ten steps of a LoRA fixture. */
export interface ManifestSteps {
  readonly headMasks: readonly (readonly number[])[];
  readonly stepLosses: readonly number[];
  readonly finalLoss: number;
}

/** Optimizer settings as the manifest has them. */
export interface ManifestOptimizer {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** A LoRA fixture. */
export interface ManifestLora {
  readonly file: string;
  readonly lora: Omit<LoraSettings, "dropout">;
  readonly optimizer: ManifestOptimizer;
  readonly base: { readonly loss: number };
  readonly unpruned: ManifestPass;
  readonly pruned: ManifestPass;
  readonly unprunedSteps: ManifestSteps;
  readonly alternatingSteps: ManifestSteps;
}

/** Ten steps of all parameters. */
export interface ManifestFullSteps {
  readonly clipNorm: number | null;
  readonly stepLosses: readonly number[];
  readonly gradientNorms: readonly number[];
  readonly finalLoss: number;
}

/** What `manifest.json` holds, as far as tests read it. */
export interface Manifest {
  readonly batch: {
    readonly tokens: readonly (readonly number[])[];
    readonly targets: readonly (readonly number[])[];
    readonly mask: readonly (readonly number[])[];
  };
  readonly lossFunction: { readonly labelSmoothing: number };
  readonly fixtures: {
    readonly gpt2_lora_slice: ManifestLora;
    readonly gpt2_lora_full: ManifestLora;
    readonly gpt2_full_training: {
      readonly file: string;
      readonly optimizer: ManifestOptimizer;
      readonly loss: number;
      readonly steps: ManifestFullSteps;
      readonly clippedSteps: ManifestFullSteps;
    };
    readonly peft_full_one_group: {
      readonly file: string;
      readonly lora: Omit<LoraSettings, "dropout">;
      readonly loss: number;
    };
  };
}

/** `manifest.json` of the fixtures. */
export const MANIFEST: Manifest = JSON.parse(Deno.readTextFileSync(new URL("manifest.json", FOLDER)));

/** Settings of the loss in all fixtures. */
export const LOSS = { labelSmoothing: MANIFEST.lossFunction.labelSmoothing };

/** Reads a file of tensors. */
export function fixture(file: string): Map<string, NamedArray> {
  return readSafetensors(Deno.readFileSync(new URL(file, FOLDER)), file);
}

/** Values of one tensor of a fixture. */
export function values(tensors: ReadonlyMap<string, NamedArray>, name: string): Float32Array {
  const found = tensors.get(name);
  if (found === undefined) throw new Error(`The fixture must hold "${name}": it does not`);
  return found.data;
}

/** The batch of all fixtures: 2 sequences of 13 tokens. */
export const BATCH: TokenBatch = {
  tokens: Uint32Array.from(MANIFEST.batch.tokens.flat()),
  targets: Uint32Array.from(MANIFEST.batch.targets.flat()),
  mask: Float32Array.from(MANIFEST.batch.mask.flat()),
  batch: 2,
  length: 13,
};

/** A batch of any number of sequences, made from those of the fixtures. */
export function batchOf(sequences: number): TokenBatch {
  const { length } = BATCH;
  const turned = <T extends Uint32Array | Float32Array>(values: T, out: T): T => {
    // Sequence i is one of the two, with its tokens turned by i, so that no two are equal.
    for (let i = 0; i < sequences; i++) {
      for (let t = 0; t < length; t++) out[i * length + t] = values[(i % 2) * length + (t + i) % length]!;
    }
    return out;
  };
  const count = sequences * length;
  return {
    tokens: turned(BATCH.tokens, new Uint32Array(count)),
    targets: turned(BATCH.targets, new Uint32Array(count)),
    mask: turned(BATCH.mask, new Float32Array(count)),
    batch: sequences,
    length,
  };
}

/** A model of the fixtures: config and weights. */
export interface TinyModel {
  readonly config: Gpt2Config;
  readonly weights: Map<string, NamedArray>;
}

/** Reads `gpt2_base` (3 layers, d 48, 4 heads) or `gpt2_one_head`. */
export function tinyModel(name: "gpt2_base" | "gpt2_one_head" = "gpt2_base"): TinyModel {
  const json = JSON.parse(Deno.readTextFileSync(new URL(`${name}/config.json`, FOLDER)));
  return { config: gpt2Config(json), weights: fixture(`${name}/model.safetensors`) };
}

/**
 * The first two of the three layers of `gpt2_base`: a first and a last one, for tests of many runs, which compare
 * them with each other and not with the fixtures.
 */
export function shallowModel(): TinyModel {
  const { config, weights } = tinyModel();
  const kept = [...weights].filter(([name]) => !/\bh\.2\./.test(name));
  return { config: { ...config, n_layer: 2 }, weights: new Map(kept) };
}

/** Both halves of a model of any family, as runs need them. */
export interface TinyBase {
  readonly engine: Engine;
  readonly layers: BaseLayers;
  readonly ends: EmbeddingAndHead;
}

/** Both halves of a model on an engine. */
export class TinyGpt2 implements TinyBase, Disposable {
  readonly layers: Gpt2Layers;
  readonly ends: Gpt2EmbeddingAndHead;

  constructor(
    readonly engine: Engine,
    readonly model: TinyModel = tinyModel(),
    trainable = false,
    baseWeights: BaseWeights = "f32",
  ) {
    this.layers = new Gpt2Layers(engine, model.config, model.weights, { trainable, baseWeights });
    this.ends = new Gpt2EmbeddingAndHead(engine, model.config, model.weights, { trainable, baseWeights });
  }

  [Symbol.dispose](): void {
    this.layers[Symbol.dispose]();
    this.ends[Symbol.dispose]();
  }
}

/** Settings of a short run with LoRA dropout and a learning rate that moves the weights. */
export function tinySettings(mode: InputModeName, steps: number, dropout = 0.1): RunSettings {
  return {
    lora: { mode, targets: ["q", "v"], rank: 4, alpha: 8, dropout },
    optimizer: { ...DEFAULT_OPTIMIZER, learningRate: 1e-2, warmupSteps: 0, schedule: "constant" },
    steps,
    seed: 7,
  };
}

/** Head modules of one device of the small model. */
export function tinyHeads(
  engine: Engine,
  settings: RunSettings,
  range: HeadRange = { first: 0, count: 4 },
): HeadModules {
  return new HeadModules(engine, { ...settings, layers: 3, hidden: 48, heads: 4, range });
}

/** All weights of head modules one after the other. */
export function flatten(weights: readonly (readonly (readonly HeadWeights[])[])[]): Float32Array {
  return Float32Array.from(weights.flat(2).flatMap(({ a, b }) => [...a, ...b]));
}

/** Weights of several devices side by side, in order of their heads. */
export function sideBySide(
  parts: readonly (readonly (readonly (readonly HeadWeights[])[])[])[],
): HeadWeights[][][] {
  return parts[0]!.map((_, l) => parts.flatMap((part) => part[l]!.map((targets) => [...targets])));
}

/** What came of a local run. */
export interface LocalResult {
  readonly losses: readonly number[];
  readonly weights: Float32Array;
  readonly statistics: HeadStatistics;
}

/**
 * Trains with all heads in this process.
 *
 * @param masks Head mask of each step; a step for each.
 * @param counts Heads of each virtual device.
 */
export async function trainLocally(
  { engine, layers, ends }: TinyGpt2,
  settings: RunSettings,
  masks: readonly Uint8Array[],
  counts: readonly number[] = [4],
  needs: readonly StatisticName[] = [],
  batch: TokenBatch = BATCH,
): Promise<LocalResult> {
  let first = 0;
  const devices = counts.map((count) => {
    const range = { first, count };
    first += count;
    return tinyHeads(engine, settings, range);
  });
  const { microBatches = 1, accumulate = 1, clipNorm = null } = settings;
  using heads = new LocalHeads(devices, needs, clipNorm);
  const data = new LocalData(ends, LOSS, () => ({ batch, mode: "train" }), accumulate);
  const losses: number[] = [];
  let statistics: HeadStatistics = {};
  for (const [step, mask] of masks.entries()) {
    const embedded = (await data.next(step))!;
    const outcome = await runStep({ engine, base: layers, heads, data, microBatches }, step, embedded, mask);
    losses.push(outcome.loss!);
    statistics = outcome.statistics;
  }
  return {
    losses,
    weights: flatten(sideBySide(await Promise.all(devices.map((d) => d.weights())))),
    statistics,
  };
}

/** Nothing is pruned. */
export function keepAll(steps: number): Uint8Array[] {
  return Array.from({ length: steps }, () => new Uint8Array(12));
}
