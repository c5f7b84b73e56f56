/**
 * The run that nobody disturbed: with the masks of the disturbed one, it must give the same losses and heads.
 *
 * @module
 */

import {
  type BatchSource,
  type EmbeddingAndHead,
  fixedBatches,
  type HeadModulesState,
  loadAdapter,
  loadEmbeddingAndHead,
  loadIntoModules,
  loadLayers,
  LocalData,
  LocalTraining,
  maskSumOf,
  openModel,
  type Pruner,
  type RunSettings,
  runStep,
  type TokenBatch,
  TokenMean,
  TrainingPlan,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { withDefaults } from "../../cli/flags/flags.ts";
import { loadGpu } from "../../cli/flags/webgpu.ts";
import { assetPath } from "../../cli/process/places.ts";
import { DATA_FLAGS, loadTrainingSet } from "../../cli/shared/training_data.ts";
import type { CountedStep, Restored } from "./run.ts";

/** What is run again. */
export interface ReplayOptions {
  readonly settings: Required<RunSettings>;
  readonly capacities: readonly number[];
  readonly batch: number;
  readonly length: number;
  readonly seed: number;
  readonly webgpu: string;
  /** Batches of validation data. */
  readonly validBatches: number;
}

/** What was done to the run. */
export interface Disturbed {
  readonly steps: readonly Pick<CountedStep, "loss" | "mask">[];
  readonly restored: readonly Restored[];
  /** What each device has learnt. */
  readonly folders: readonly string[];
}

/** What came of it. */
export interface Replayed {
  /** The first step whose loss is another one; `null` if there is none. */
  readonly firstOther: number | null;
  /** Devices whose heads are others. */
  readonly otherHeads: readonly number[];
  /** Validation loss of the replay, with all heads. */
  readonly validation: number;
  /** That of a run of as many steps in which nothing happened; `null` where it was not asked for. */
  readonly undisturbed: number | null;
  /** That of before the first step. */
  readonly untrained: number;
}

/** Texts of the replay. */
interface Texts {
  readonly plan: TrainingPlan;
  readonly valid: readonly TokenBatch[];
}

async function readTexts(options: ReplayOptions): Promise<Texts & { readonly model: string }> {
  const { batch, length, seed, validBatches, settings } = options;
  const model = assetPath("tiny_gpt2");
  const { tokenizer } = await openModel(model);
  const reading = { ...withDefaults(DATA_FLAGS, {}), encoder: tokenizer, model, length };
  const load = (name: string) => loadTrainingSet(assetPath(`restaurant/${name}.txt`), reading, () => {});
  const plan = await TrainingPlan.create({ set: await load("train"), batch, seed });
  plan.begin(settings);
  return { model, plan, valid: fixedBatches(await load("valid"), batch).slice(0, validBatches) };
}

/** Prunes what was pruned, and takes up the states that devices took up. */
function scripted(
  { steps, restored }: Disturbed,
  training: () => LocalTraining,
): Pruner<null> {
  const states = new Map<string, HeadModulesState>();
  return {
    name: "replay",
    needs: [],
    init: () => null,
    async decide({ step }) {
      const { modules } = training();
      for (const { device, from } of restored) {
        if (from === step) states.set(`${device} ${from}`, await modules[device]!.state());
      }
      for (const { device, at, from } of restored) {
        if (at === step) modules[device]!.restore(states.get(`${device} ${from}`)!);
      }
      return [{ mask: steps[step]!.mask }, null];
    },
  };
}

/** The mean loss of the validation data with all heads. */
async function validationLoss(
  model: {
    readonly engine: Engine;
    readonly base: ReturnType<typeof loadLayers>;
    readonly ends: EmbeddingAndHead;
  },
  { heads }: LocalTraining,
  valid: readonly TokenBatch[],
): Promise<number> {
  const next: BatchSource = (at) => at < valid.length ? { batch: valid[at]!, mode: "evaluate" } : null;
  const data = new LocalData(model.ends, { labelSmoothing: 0 }, next);
  const mean = new TokenMean();
  const { layers, heads: count } = model.base.shape;
  const mask = new Uint8Array(layers * count);
  for (const [at, batch] of valid.entries()) {
    const { loss } = await runStep({ ...model, heads, data }, at, (await data.next(at))!, mask);
    mean.add(loss!, maskSumOf(batch));
  }
  return mean.value;
}

/** Runs as many steps again in one process, and compares. */
export async function replay(
  options: ReplayOptions,
  disturbed: Disturbed,
  { isComparedToUndisturbed = false }: { readonly isComparedToUndisturbed?: boolean } = {},
): Promise<Replayed> {
  const { settings, capacities } = options;
  const { model: folder, plan, valid } = await readTexts(options);
  const { model } = await openModel(folder);
  using engine = await Engine.create({ gpu: await loadGpu(options.webgpu) });
  using base = loadLayers(engine, model);
  using ends = loadEmbeddingAndHead(engine, model);
  const parts = { engine, base, ends };
  const count = disturbed.steps.length;
  const source: BatchSource = (step) => step < count ? plan.next(step) : null;
  const trained = (pruner: Pruner, onLoss: (step: number, loss: number) => void) => {
    const training: LocalTraining = new LocalTraining({
      ...parts,
      ...{ settings, source, capacities, pruner: pruner as Pruner },
      onEvent(event) {
        if (event.type === "step") onLoss(event.step, event.loss!);
      },
    });
    return training;
  };
  let firstOther: number | null = null;
  // deno-lint-ignore prefer-const -- the pruner needs what it is part of
  let own: LocalTraining;
  own = trained(scripted(disturbed, () => own) as Pruner, (step, loss) => {
    if (loss !== disturbed.steps[step]!.loss) firstOther ??= step;
  });
  using training = own;
  const untrained = await validationLoss(parts, training, valid);
  await training.trainer.run();
  const otherHeads: number[] = [];
  for (const [i, path] of disturbed.folders.entries()) {
    const learnt = await training.modules[i]!.state();
    loadIntoModules(await loadAdapter(path), training.modules[i]!);
    const saved = await training.modules[i]!.state();
    if (!isSame(learnt.weights, saved.weights)) otherHeads.push(i);
  }
  const validation = await validationLoss(parts, training, valid);
  if (!isComparedToUndisturbed) return { firstOther, otherHeads, validation, untrained, undisturbed: null };
  const none = {
    steps: disturbed.steps.map((s) => ({ ...s, mask: s.mask.map(() => 0) })),
    restored: [],
    folders: [],
  };
  using whole: LocalTraining = trained(scripted(none, () => whole) as Pruner, () => {});
  await whole.trainer.run();
  return {
    firstOther,
    otherHeads,
    validation,
    untrained,
    undisturbed: await validationLoss(parts, whole, valid),
  };
}

/** Equal bit for bit, whatever it is made of. */
function isSame(a: unknown, b: unknown): boolean {
  if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) {
    const [x, y] = [a, b].map((v) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength));
    return x!.length === y!.length && x!.every((byte, i) => byte === y![i]);
  }
  if (typeof a !== "object" || a === null || typeof b !== "object" || b === null) return a === b;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((key) => isSame(a[key as keyof typeof a], b[key as keyof typeof b]));
}
