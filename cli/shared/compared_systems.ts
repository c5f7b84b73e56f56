/**
 * The five systems of the paper on a simulated network: the same model, data and links for each.
 *
 * @module
 */

import {
  baseNorms,
  baseProjections,
  type BaseWeights,
  DEVICE_STATISTICS,
  endsOf,
  findRunCodecs,
  fixedBatches,
  generateGreedy,
  type HeadModules,
  headParameters,
  type HeadProjections,
  INPUT_MODES,
  loadEmbeddingAndHead,
  loadLayers,
  LocalHeads,
  type ModelFolder,
  modeSize,
  type Pruner,
  type ReadExamples,
  type RunSettings,
  type SequenceSet,
  shapeForDevices,
  shuffledBatches,
  stepTraffic,
  type Tokenizer,
  type WireCodec,
} from "@edgetuner/core";
import {
  type ComputeModel,
  type CurvePoint,
  type LinkProfile,
  plan,
  type PlanOptions,
  simulate,
  type SimulatedStep,
  simulateServerTuner,
  simulateTensorParallel,
  type SimulationOptions,
  TYPICAL_COMPUTE,
} from "@edgetuner/transport";
import type { Engine } from "@edgetuner/kernels";
import { rougeL } from "@edgetuner/core/evaluation";

import { countSlots } from "./slots.ts";
import { UsageError } from "../flags/flags.ts";
import { cutText, encodePrompts, havePrompts, type Prompt } from "./prompts.ts";
import { loadTrainingSet, readExamples } from "./training_data.ts";
import { computeHere } from "../flags/simulation_flags.ts";
import { openTold } from "./opened_model.ts";

/** Longest texts that are generated for test prompts. */
const MAX_NEW_TOKENS = 40;

/** What is the same for every run. */
export interface ComparisonOptions {
  /** The base model: its folder, or a GGUF file. */
  readonly model: string;
  /** Its tokenizer; empty for the model's own. */
  readonly tokenizer: string;
  /** How the base's matrices are held. */
  readonly baseWeights: BaseWeights;
  /** Training, validation and test data. */
  readonly data: string;
  readonly valid: string;
  readonly test: string;
  /** Sequences per step, and tokens of each. */
  readonly batch: number;
  readonly length: number;
  /** Validation batches, 0 for all, and test prompts that texts are generated for. */
  readonly validBatches: number;
  readonly prompts: number;
  /** What of the data is learnt, and whether bad lines are left out. */
  readonly "train-on-prompt": boolean;
  readonly "skip-bad": boolean;
  readonly map?: string;
  readonly "data-format"?: string;
  /** gamma of each device; the first one is the data device. */
  readonly capacities: readonly number[];
  /** Memory of each device in bytes, which TPTensor's shares must fit; as much as it takes if `null`. */
  readonly memory: readonly number[] | null;
  readonly link: LinkProfile;
  /** How fast the parties compute; `null` = as measured here, with these settings. */
  readonly compute: ComputeModel | null;
  readonly settings: RunSettings;
  /** Label smoothing of training steps. */
  readonly smoothing: number;
  /** Codecs besides the built-in ones. @default {[]} */
  readonly codecs?: readonly WireCodec[];
}

/** A system that takes part. */
export type System =
  | { readonly kind: "serverTuner" | "tensorParallel" }
  // deno-lint-ignore no-explicit-any -- a pruner of any state
  | { readonly kind: "split"; readonly pruner: Pruner<any> };

/** What came of one run. */
export interface RunResult {
  readonly steps: readonly SimulatedStep[];
  readonly secondsPerStep: number;
  readonly bytesPerStep: number;
  /** Share of the heads kept, and mean number of layers with a kept head. */
  readonly kept: number;
  readonly layers: number;
  readonly validLoss: { readonly before: number; readonly after: number };
  /** The validation loss while the run went on. */
  readonly curve: readonly CurvePoint[];
  /** Share of the slots that generated texts realise; `null` if there are none to count. */
  readonly slots: number | null;
  /** ROUGE-L of generated texts, where there are no slots to count; else `null`. */
  readonly rougeL: number | null;
  /** Milliseconds of a step that the slowest device computes. */
  readonly deviceMs: number;
  /** Memory that the weights and moments of the largest device's heads take; 0 without devices. */
  readonly deviceBytes: number;
  /** What `plan` said of a step with as many heads. */
  readonly planned: { readonly seconds: number; readonly bytes: number };
  /** What ended the run, if anything did: such as too little memory. */
  readonly refused: string | null;
}

/** What was read from files. */
interface Loaded {
  readonly model: ModelFolder;
  readonly tokenizer: Tokenizer;
  readonly train: SequenceSet;
  readonly valid: SequenceSet;
  readonly test: ReadExamples;
}

/** How good generated texts are, see `RunResult`. */
type TextQuality = Pick<RunResult, "slots" | "rougeL">;

/** What is told and done besides the steps of a run. */
export interface RunExtras {
  /** Called after each step. */
  readonly onStep: () => void;
  /** True to generate texts at the end. */
  readonly texts: boolean;
  /** Steps from one evaluation to the next; 0 for none in between. @default {0} */
  readonly evalEvery?: number | undefined;
  /** The link, where it is another one. @default {that of the comparison} */
  readonly link?: LinkProfile | undefined;
}

/** Loaded once, used by every run. */
export class SystemComparison implements Disposable {
  readonly model: ModelFolder;
  readonly #engine: Engine;
  readonly #options: ComparisonOptions;
  readonly #layers: ReturnType<typeof loadLayers>;
  readonly #ends: ReturnType<typeof loadEmbeddingAndHead>;
  readonly #tokenizer: Tokenizer;
  readonly #train: SequenceSet;
  readonly #evaluation: ReturnType<typeof fixedBatches>;
  readonly #prompts: readonly Prompt[];
  readonly #baseNorm: Float32Array;
  #compute: ComputeModel;

  private constructor(engine: Engine, options: ComparisonOptions, loaded: Loaded) {
    const { model, tokenizer, train, valid, test } = loaded;
    this.#engine = engine;
    this.#options = options;
    this.model = model;
    this.#tokenizer = tokenizer;
    this.#layers = loadLayers(engine, model, options);
    this.#ends = loadEmbeddingAndHead(engine, model, options);
    this.#train = train;
    this.#evaluation = fixedBatches(valid, options.batch).slice(0, options.validBatches || undefined);
    const choice = { count: options.prompts, first: 0, distinct: false };
    // Plain texts have no prompts: then no texts are generated.
    if (havePrompts(test.examples)) {
      const room = this.#ends.shape.positions - MAX_NEW_TOKENS;
      const { prompts, counts } = encodePrompts(test, tokenizer, choice, room);
      const cut = cutText(options.test, counts, room);
      if (cut !== null) console.error(cut);
      this.#prompts = prompts;
    } else this.#prompts = [];
    this.#baseNorm = baseNorms(model);
    this.#compute = options.compute ?? TYPICAL_COMPUTE;
  }

  /** Loads model and data. */
  static async open(engine: Engine, options: ComparisonOptions): Promise<SystemComparison> {
    const devices = options.capacities.length;
    const stranger = options.link.failures?.find(({ device = 0 }) => device >= devices);
    if (stranger !== undefined) {
      throw new UsageError(
        `Cannot compare as failures of the link must be of one of ${devices} devices, from 0: current value is ${stranger.device}`,
      );
    }
    const { model, tokenizer } = await openTold(options.model, options);
    const encoded = (file: string) => loadTrainingSet(file, { ...options, encoder: tokenizer });
    const train = await encoded(options.data);
    const valid = await encoded(options.valid);
    const test = await readExamples(options.test, options);
    const work = new SystemComparison(engine, options, { model, tokenizer, train, valid, test });
    if (options.compute === null) {
      const { settings, batch } = options;
      const sample = shuffledBatches(work.#train, { batch, seed: settings.seed }).next();
      work.#compute = await computeHere({ layers: work.#layers, ends: work.#ends }, settings, sample);
    }
    return work;
  }

  /** How fast the parties compute. */
  get compute(): ComputeModel {
    return this.#compute;
  }

  /** Shape of the model. */
  get shape() {
    return this.#layers.shape;
  }

  /**
   * Trains one system from the start.
   *
   * @throws What ended the run, unless a system was refused for what it needs.
   */
  async run(system: System, given: RunSettings, extras: RunExtras): Promise<RunResult> {
    const { onStep, texts, evalEvery } = extras;
    const settings = settingsFor(system, given);
    const { capacities, memory, smoothing } = this.#options;
    const link = extras.link ?? this.#options.link;
    const compute = this.#compute;
    const batches = shuffledBatches(this.#train, { batch: this.#options.batch, seed: settings.seed });
    const projections = await baseProjections(this.model, settings.lora);
    let quality: TextQuality = { slots: null, rougeL: null };
    const common: SimulationOptions = {
      model: { engine: this.#engine, layers: this.#layers, ends: this.#ends, projections },
      settings,
      loss: { labelSmoothing: smoothing },
      batches: (step) => {
        batches.position = step;
        return batches.next();
      },
      evaluation: this.#evaluation,
      evaluateEvery: evalEvery,
      compute,
      onStep,
      onTrained: async (modules) => {
        if (texts) quality = await this.#quality(modules, projections);
      },
    };
    const network = {
      ...common,
      codecs: this.#options.codecs,
      link,
      linkSeed: settings.seed,
      devices: capacities.map((capacity, i) => ({
        capacity,
        ...(memory === null ? {} : { memory: memory[i]! }),
      })),
    };
    const result = system.kind === "split"
      ? await simulate({ ...network, pruner: system.pruner, baseNorm: this.#baseNorm })
      : system.kind === "serverTuner"
      ? await simulateServerTuner(common)
      : await simulateTensorParallel({
        ...network,
        checkpoint: this.model as Parameters<typeof simulateTensorParallel>[0]["checkpoint"],
        capacity: Math.max(...capacities),
      });
    const { layers, heads } = this.shape;
    const mean = (values: readonly number[]) =>
      values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);
    const kept = mean(result.steps.map((s) => s.kept.reduce((a, b) => a + b, 0) / (layers * heads)));
    const active = mean(result.steps.map((s) => s.kept.filter((n) => n > 0).length));
    const rows = result.steps.flatMap(({ embeddingRows }) => embeddingRows?.[0] ?? []);
    const planned = this.#plan(system, settings, {
      link,
      keep: kept,
      keepLayers: active / layers,
      embeddingRows: rows.length === 0 ? undefined : Math.round(mean(rows)),
    });
    return {
      steps: result.steps,
      secondsPerStep: result.msPerStep / 1000,
      bytesPerStep: result.bytesPerStep,
      kept,
      layers: active,
      validLoss: result.evaluation!,
      curve: result.curve,
      ...quality,
      deviceMs: Math.max(0, ...result.devices.map(({ computeMs }) => computeMs)) /
        Math.max(1, result.steps.length),
      deviceBytes: system.kind === "split"
        ? deviceBytes(settings, this.shape, Math.max(...result.devices.map((d) => d.range?.count ?? 0)))
        : 0,
      planned: { seconds: planned.msPerStep / 1000, bytes: planned.frameBytes },
      refused: result.error === null ? null : (result.error as Error).message,
    };
  }

  /** Tensor bytes of a training step with a mask, without statistics. */
  bytesOf(mask: Uint8Array, headsPerDevice: readonly number[], { lora }: RunSettings): number {
    const { batch, length } = this.#options;
    const shape = {
      ...modeSize(lora, this.shape),
      layers: this.shape.layers,
      tokens: batch * length,
      batch,
      headsPerDevice,
      mask,
      statistics: 0,
    };
    const traffic = stepTraffic({ ...shape, mode: lora.mode });
    return [...traffic.values()].reduce((a, b) => a + b, 0);
  }

  /** What a step should take, before anything runs but for heads that are kept and rows of E that differ. */
  #plan(
    system: System,
    settings: RunSettings,
    { link, keep, keepLayers, embeddingRows }: {
      readonly link: LinkProfile;
      readonly keep: number;
      readonly keepLayers: number;
      readonly embeddingRows: number | undefined;
    },
  ) {
    const { batch, length, capacities, codecs } = this.#options;
    const compute = this.#compute;
    const counted = this.#evaluation.reduce((sum, { mask }) => sum + mask.reduce((a, b) => a + b, 0), 0) /
      this.#evaluation.reduce((sum, { mask }) => sum + mask.length, 0);
    const options: PlanOptions = {
      system: system.kind,
      model: { ...this.shape, vocabulary: this.#ends.shape.vocabulary },
      batch,
      length,
      devices: capacities.map((capacity) => ({ capacity })),
      lora: settings.lora,
      counted,
      link,
      compute,
      sharesLoss: true,
      codec: findRunCodecs(settings.codec ?? "f32", codecs),
      ...(embeddingRows === undefined ? {} : { embeddingRows: [embeddingRows] }),
      ...(system.kind === "split"
        ? {
          keep,
          keepLayers,
          statistics: DEVICE_STATISTICS.filter((name) => system.pruner.needs.includes(name)).length,
        }
        : {}),
    };
    return plan(options);
  }

  /** How good greedy texts for the test prompts are. */
  async #quality(modules: readonly HeadModules[], projections?: HeadProjections): Promise<TextQuality> {
    if (this.#prompts.length === 0) return { slots: null, rougeL: null };
    using heads = new LocalHeads(modules, [], null, { keepsModules: true, projections });
    const tokens = await generateGreedy(
      { engine: this.#engine, layers: this.#layers, ends: this.#ends, heads },
      this.#prompts.map(({ tokens }) => tokens),
      { maxNewTokens: MAX_NEW_TOKENS, eos: endsOf(this.#tokenizer) },
    );
    const texts = tokens.map((ids) => this.#tokenizer.decode(ids).trim());
    const { right, all } = countSlots(this.#prompts.map((p) => p.text), texts);
    if (all > 0) return { slots: right / all, rougeL: null };
    const known = [...this.#prompts.keys()].filter((i) => this.#prompts[i]!.reference.trim() !== "");
    const corpus = {
      references: known.map((i) => [this.#prompts[i]!.reference.trim()]),
      predictions: known.map((i) => texts[i]!),
    };
    return { slots: null, rougeL: known.length === 0 ? null : rougeL(corpus).score };
  }

  [Symbol.dispose](): void {
    this.#layers[Symbol.dispose]();
    this.#ends[Symbol.dispose]();
  }
}

/** Tensor parallelism trains A and B where the weights are; in modes without B it takes all of X instead. */
function settingsFor({ kind }: System, settings: RunSettings): RunSettings {
  const { projections: _none, ...lora } = settings.lora;
  const changes = kind === "tensorParallel" && INPUT_MODES[lora.mode].projects;
  return changes ? { ...settings, lora: { ...lora, mode: "full" } } : settings;
}

/** Bytes of weights and of AdamW's two moments of so many heads of each layer. */
function deviceBytes(
  { lora }: RunSettings,
  shape: Parameters<typeof shapeForDevices>[0],
  heads: number,
): number {
  const { layers } = shape;
  return 3 * 4 * layers * heads * headParameters(lora, shapeForDevices(shape));
}

/** Mean and standard deviation over runs. */
export function spread(values: readonly number[]): { readonly mean: number; readonly deviation: number } {
  if (values.length === 0) throw new UsageError("Cannot average as there must be a run: there is none");
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const square = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, deviation: values.length < 2 ? 0 : Math.sqrt(square / (values.length - 1)) };
}
