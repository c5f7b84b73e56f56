/**
 * Fine-tuning with everything on one machine: the head modules of one or several virtual devices beside the base
 * model, and any pruner.
 *
 * @module
 */

import { shapeForDevices } from "../contracts/model_shape.ts";
import type { Engine } from "@edgetuner/kernels";
import type { EmbeddedBatch } from "../contracts/ports.ts";
import type { Pruner, PrunerContext } from "../contracts/pruner.ts";
import { allocateHeads } from "../lora/allocation.ts";
import { requireProjections } from "../lora/base_projections.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { LocalHeads } from "../lora/local_heads.ts";
import type { HeadProjections } from "../lora/projections.ts";
import { adamwAt } from "../lora/settings.ts";
import type { BaseLayers, EmbeddingAndHead } from "../model/base.ts";
import type { LossSettings } from "../model/loss.ts";
import { PruningSession } from "../pruning/pruning_session.ts";
import { sampleSettings } from "../pruning/predictor/samples.ts";
import { type BatchSource, LocalData } from "../train/local_data.ts";
import {
  checkRunSettings,
  type RunSettings,
  settingsWith,
  TRAINING_DEFAULTS,
} from "../train/run_settings.ts";
import { probeStep, runStep, type StepContext } from "../train/step.ts";
import { type SavingPort, Trainer, type TrainerOptions } from "../train/trainer.ts";
import type { TrainingPlan } from "../train/training_plan.ts";
import type { RunState } from "./run_state.ts";

/** What training on one machine needs. */
export interface LocalTrainingOptions extends Pick<TrainerOptions, "start" | "onEvent" | "shouldStop"> {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers; not disposed with the training. */
  readonly base: BaseLayers;
  /** Embedding, final norm and LM head; not disposed with the training. */
  readonly ends: EmbeddingAndHead;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Where batches come from: a plan, which also makes validations of losses, or any source. */
  readonly source: TrainingPlan | BatchSource;
  /** Settings of the loss of batches that do not come with their own. @default {{ labelSmoothing: 0.1 }} */
  readonly loss?: LossSettings | undefined;
  /** Capacities of the virtual devices, which get the heads in this order. @default {[1]} */
  readonly capacities?: readonly number[] | undefined;
  /** Decides which heads are pruned. @default {nobody: none is} */
  readonly pruner?: Pruner | undefined;
  /** What the pruner is told of the run. @default {made of model, settings and devices} */
  readonly context?: PrunerContext | undefined;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array | undefined;
  /** Frozen projections from the base model, where the LoRA settings ask for them: see `baseProjections`. */
  readonly projections?: HeadProjections | undefined;
  /** Keeps the heads of a validation with the best loss so far. */
  readonly onBest?: ((step: number) => Promise<void>) | undefined;
  /** Where the state of the run goes. */
  readonly saving?: SavingPort<RunState> | undefined;
}

/**
 * A run with everything on one machine.
 *
 * @category Training
 *
 * @example
 * ```ts
 * import {
 *   defaultRunSettings,
 *   Engine,
 *   loadEmbeddingAndHead,
 *   loadLayers,
 *   loadTrainingData,
 *   LocalTraining,
 *   openModel,
 *   TrainingPlan,
 * } from "@edgetuner/edgetuner";
 *
 * const path = "cli/assets/tiny_gpt2";
 * const { model, tokenizer } = await openModel(path);
 * const set = await loadTrainingData("cli/assets/restaurant/valid.txt", { model: path, tokenizer, length: 24 });
 * using engine = await Engine.create();
 * using base = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * const source = await TrainingPlan.create({ set, valid: set, batch: 2, seed: 1, validBatches: 1 });
 * using training = new LocalTraining({ engine, base, ends, settings: defaultRunSettings(2), source });
 * const { losses } = await training.trainer.run();
 * console.log(losses?.before, losses?.after);
 * ```
 */
export class LocalTraining implements Disposable {
  /** The head modules of each virtual device. */
  readonly modules: readonly HeadModules[];
  /** All of them as one port, for steps and generation. */
  readonly heads: LocalHeads;
  /** The training loop. */
  readonly trainer: Trainer<EmbeddedBatch, RunState>;
  readonly #settings: Required<RunSettings>;

  /**
   * Draws the head modules and prepares the run.
   *
   * @throws {RangeError} If settings are out of range, or there are more devices than heads.
   * @throws {TypeError} If projections from the base model are asked for and not given.
   * @throws {PluginError} If the pruner is not one, see `checkPruner`.
   */
  constructor(options: LocalTrainingOptions) {
    const { engine, base, ends, source, onBest, saving, start, onEvent } = options;
    const { labelSmoothing } = TRAINING_DEFAULTS;
    const { pruner, projections, capacities = [1], loss = { labelSmoothing } } = options;
    const settings = this.#settings = checkRunSettings(settingsWith(options.settings, pruner));
    const { layers, heads } = base.shape;
    requireProjections(settings.lora, base.shape, projections);
    const ranges = allocateHeads(heads, capacities);
    const plan = typeof source === "function" ? null : source;
    plan?.begin(settings);
    const next = typeof source === "function" ? source : (step: number) => source.next(step);
    this.modules = ranges.map((range) =>
      new HeadModules(engine, { ...settings, ...shapeForDevices(base.shape), range })
    );
    this.heads = new LocalHeads(this.modules, pruner?.needs ?? [], settings.clipNorm, { projections });
    const data = new LocalData(ends, loss, next, settings.accumulate);
    const context: StepContext = {
      ...{ engine, base, heads: this.heads, data },
      shouldStop: () => this.trainer.isStopping,
    };
    const pruning = pruner === undefined ? null : new PruningSession({
      pruner,
      context: options.context ?? {
        ...{ layers, heads, capacities, seed: settings.seed, settings: sampleSettings(settings) },
        headsPerDevice: ranges.map(({ count }) => count),
      },
      baseNorm: options.baseNorm,
      probe: (step, batch) => probeStep(context, step, batch),
    });
    this.trainer = new Trainer({
      async next(step) {
        const batch = await data.next(step);
        engine.flush();
        return batch;
      },
      async step(step, batch, { mask }) {
        const outcome = await runStep(context, step, batch, mask);
        await engine.idle();
        return outcome;
      },
      ...{ pruning, validation: plan, onBest, saving },
    }, { start, onEvent, shouldStop: options.shouldStop, maskLength: layers * heads });
  }

  /** Learning rate of a step. */
  rateAt(step: number): number {
    return adamwAt(this.#settings.optimizer, step, this.#settings.steps).rate;
  }

  /** Frees the head modules. */
  [Symbol.dispose](): void {
    this.heads[Symbol.dispose]();
  }
}
