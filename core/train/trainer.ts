/**
 * The training loop: next batch, ask the pruner, run the step, validate, save, tell.
 *
 * What these are is up to ports: heads on one machine or on devices behind a network, a split step or a
 * tensor-parallel one, real or virtual time.
 *
 * @module
 */

import type { EmbeddedBatch, HeadStatistics, StepMode } from "../contracts/ports.ts";
import type { PrunerDecision } from "../contracts/pruner.ts";
import { BackgroundSaver, type SaveEvery, SaveSchedule, type SavingTimes } from "./saving.ts";
import type { StepOutcome } from "./step.ts";
import type { BestLoss } from "./training_plan.ts";

/** Decides which heads are pruned. */
export interface PruningPort<B> {
  /** The decision for a training step. The batch is this port's to dispose of if it throws. */
  decide(step: number, batch: B): Promise<PrunerDecision>;
  /** Takes in what came of the step. */
  learn(decision: PrunerDecision, statistics: HeadStatistics): void;
}

/** Turns losses of batches into validations. */
export interface ValidationPort {
  /** Takes in the loss of a batch; returns the loss of the validation that it completes, else `null`. */
  onLoss(step: number, mode: StepMode, loss: number): number | null;
  /** True once after a validation with the best loss so far. */
  isBest(): boolean;
  /** Validations so far. */
  readonly validations: readonly BestLoss[];
  /** The best validation so far, also of before the run was resumed. */
  readonly best: BestLoss | null;
}

/** Where the state of a run goes. */
export interface SavingPort<S = unknown> {
  /** How often. */
  readonly every: SaveEvery;
  /** Called before each step with a word on whether its state will be saved: others may save after the same steps. */
  announce?(isSaved: boolean): void;
  /** The state after so many training steps. */
  read?(step: number): S | Promise<S>;
  /** Writes a state beside the steps that follow; without it nothing is saved here. */
  write?: ((state: S) => void | Promise<void>) | undefined;
  /** Training steps of a state that is saved already. @default {null, none} */
  readonly saved?: number | null;
  /** True to wait until a state is written: where steps leave the event loop few turns. @default {false} */
  readonly waits?: boolean;
  /** Writes the states. @default {one of its own} */
  readonly saver?: BackgroundSaver;
}

/** What a trainer works with. */
export interface TrainerPorts<B extends { readonly mode: StepMode } = EmbeddedBatch, S = unknown> {
  /** The batch after so many training steps; `null` ends the run. */
  next(step: number): Promise<B | null>;
  /**
   * Runs a step of training or evaluation, and disposes of its batch.
   *
   * @returns `null` if it does not take place, as whoever has its data is gone.
   * @throws {DOMException} An `AbortError` if it was stopped in the middle: the step then does not count.
   */
  step(step: number, batch: B, decision: PrunerDecision): Promise<StepOutcome | null>;
  /** Decides which heads are pruned. @default {none is} */
  readonly pruning?: PruningPort<B> | null | undefined;
  /** Makes validations of the losses of evaluation. @default {none} */
  readonly validation?: ValidationPort | null | undefined;
  /** Keeps the heads of a validation with the best loss so far; not called before the first training step. */
  onBest?: ((step: number) => Promise<void>) | undefined;
  /** Where the state of the run goes. @default {nowhere} */
  readonly saving?: SavingPort<S> | undefined;
  /** Waits while the run is held; false if it is to end. @default {what the trainer's own pause and stop say} */
  waitWhilePaused?(): Promise<boolean>;
}

/** A step, after it. */
export interface TrainerStep {
  /** Training steps before this one. */
  readonly step: number;
  /** Train or evaluate. */
  readonly mode: StepMode;
  /** The loss, if it is known. */
  readonly loss: number | null;
  /** In evaluation how many tokens the loss is the mean of, where that is known. */
  readonly counted?: number | undefined;
  /** What the pruner decided; its mask with the heads that were away. */
  readonly decision: PrunerDecision;
  /** Heads of every layer whose devices were away. @default {none} */
  readonly away?: readonly number[] | undefined;
  /** Statistics of a training step. */
  readonly statistics: HeadStatistics;
  /** Tokens of the step. */
  readonly tokens: number;
  /** B, sequences of the step. */
  readonly batch: number;
  /** Milliseconds of the whole step, from asking for its batch. */
  readonly ms: number;
  /** Milliseconds of the pruner with its statistics. */
  readonly pruneMs: number;
  /** The clock when the step began, in milliseconds. */
  readonly startedAt: number;
}

/** What happens in a training run. */
export type TrainerEvent =
  | ({ readonly type: "step" } & TrainerStep)
  | {
    readonly type: "validation";
    /** Training steps before it. */
    readonly step: number;
    /** Its loss. */
    readonly loss: number;
    /** True if no loss of a validation was lower. */
    readonly isBest: boolean;
    /** Milliseconds of its last batch. */
    readonly ms: number;
    /** Tokens of its last batch. */
    readonly tokens: number;
  }
  | {
    /** No step follows; the last state is still to be saved. */
    readonly type: "finished";
    /** Training steps of the run. */
    readonly step: number;
  };

/** Options of a trainer. */
export interface TrainerOptions {
  /** Training steps done before: where a run goes on. @default {0} */
  readonly start?: number | undefined;
  /** L * H, length of head masks, in runs without a pruner. @default {0} */
  readonly maskLength?: number | undefined;
  /** Hears what happens; the run waits for it. */
  onEvent?: ((event: TrainerEvent) => void | Promise<void>) | undefined;
  /** Asked before each step, and by steps that can stop in the middle: true ends the run. */
  shouldStop?: (() => boolean) | undefined;
  /** The clock, in milliseconds. @default {performance.now} */
  readonly now?: (() => number) | undefined;
}

/** Losses at the two ends of a run. */
export interface LossesAtEnds {
  /** What kind of loss. */
  readonly kind: "validation loss" | "training loss";
  /** The first. */
  readonly before: number;
  /** The last. */
  readonly after: number;
}

/** How a run went. */
export interface TrainingSummary {
  /** Why it ended: all steps are done, or it was stopped. */
  readonly ending: "done" | "stopped";
  /** Training steps, also those of before the run was resumed. */
  readonly step: number;
  /** Losses before and after, as far as they are known. */
  readonly losses: LossesAtEnds | null;
  /** The loss of the last training step; `null` if it is not known. */
  readonly lastLoss: number | null;
  /** All validations. */
  readonly validations: readonly BestLoss[];
  /** The best of them, and of those before the run was resumed. */
  readonly best: BestLoss | null;
  /** What saving took. */
  readonly saving: SavingTimes;
  /** Milliseconds from the first batch to the last save. */
  readonly ms: number;
}

/** Losses at the ends: of validations if there were two, else of training. */
export function lossesAtEnds(
  validations: readonly number[],
  training: readonly (number | null)[],
): LossesAtEnds | null {
  const known = training.filter((loss) => loss !== null);
  const [kind, losses] = validations.length > 1
    ? ["validation loss" as const, validations]
    : ["training loss" as const, known];
  return losses.length < 2 ? null : { kind, before: losses[0]!, after: losses.at(-1)! };
}

/**
 * The training loop of every run.
 *
 * @category Training
 *
 * @example Fine-tune a model on one machine
 * ```ts
 * import { encodePairs, loadEmbeddingAndHead, loadLayers, loadModelFolder, loadTokenizer } from "@edgetuner/core";
 * import { defaultRunSettings, LocalTraining, TrainingPlan } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * const model = await loadModelFolder("cli/assets/tiny_gpt2");
 * using base = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * const pairs = [{ prompt: "name[Aromi]", completion: "Aromi is a pub." }];
 * const set = encodePairs(pairs, await loadTokenizer("cli/assets/tiny_gpt2/tokenizer.json"), { length: 24 });
 * const source = await TrainingPlan.create({ set, batch: 1, seed: 1 });
 * using training = new LocalTraining({ engine, base, ends, settings: defaultRunSettings(3), source });
 * console.log((await training.trainer.run()).losses); // { kind: "training loss", before: ..., after: ... }
 * ```
 */
export class Trainer<B extends { readonly mode: StepMode } = EmbeddedBatch, S = unknown> {
  readonly #ports: TrainerPorts<B, S>;
  readonly #options: TrainerOptions;
  readonly #now: () => number;
  readonly #saver: BackgroundSaver;
  readonly #schedule: SaveSchedule;
  #step: number;
  #saved: number | null;
  #isStopped = false;
  #isRunning = false;
  #paused: PromiseWithResolvers<void> | null = null;
  #firstLoss: number | null = null;
  #lastLoss: number | null = null;

  /** Prepares a run. */
  constructor(ports: TrainerPorts<B, S>, options: TrainerOptions = {}) {
    const { start = 0, now = () => performance.now() } = options;
    const { saving } = ports;
    this.#ports = ports;
    this.#options = options;
    this.#now = now;
    this.#step = start;
    this.#saved = saving?.saved ?? null;
    this.#saver = saving?.saver ?? new BackgroundSaver();
    this.#schedule = new SaveSchedule(saving?.every ?? {}, now);
  }

  /** Training steps so far. */
  get step(): number {
    return this.#step;
  }

  /** True once the run is to end. */
  get isStopping(): boolean {
    return this.#isStopped || (this.#options.shouldStop?.() ?? false);
  }

  /** Holds the run before its next step. */
  pause(): void {
    this.#paused ??= Promise.withResolvers();
  }

  /** Goes on after `pause`. */
  resume(): void {
    this.#paused?.resolve();
    this.#paused = null;
  }

  /** Ends the run: at once, where its steps can stop in the middle. */
  stop(): void {
    this.#isStopped = true;
    this.#paused?.resolve();
  }

  /**
   * Runs all steps that are left, and saves the last state.
   *
   * @param signal Ends the run as `stop` does.
   * @throws {TypeError} If it is running already.
   * @throws {TrainingError} If a loss or the norm of the gradients is not finite.
   * @throws What the ports throw.
   */
  async run(signal?: AbortSignal): Promise<TrainingSummary> {
    if (this.#isRunning) throw new TypeError("Cannot start the training as it must not be running: it is");
    this.#isRunning = true;
    const begun = this.#now();
    const onAbort = () => this.stop();
    if (signal?.aborted) onAbort();
    else signal?.addEventListener("abort", onAbort);
    try {
      const isDone = await this.#steps();
      await this.#emit({ type: "finished", step: this.#step });
      await this.#save();
      await this.#saver.settled();
      return this.#summary(isDone ? "done" : "stopped", this.#now() - begun);
    } finally {
      signal?.removeEventListener("abort", onAbort);
      this.#isRunning = false;
    }
  }

  /** True if all steps are done. */
  async #steps(): Promise<boolean> {
    while (await this.#waitWhilePaused()) {
      const startedAt = this.#now();
      const batch = await this.#ports.next(this.#step);
      if (batch === null) return true;
      if (!await this.#one(batch, startedAt)) return false;
    }
    return false;
  }

  /** One step with all that belongs to it; false if it was stopped in the middle. */
  async #one(batch: B, startedAt: number): Promise<boolean> {
    const { pruning, saving } = this.#ports;
    const { mode } = batch;
    const isTraining = mode === "train";
    const pruneStarted = this.#now();
    const decision = isTraining && pruning
      ? await pruning.decide(this.#step, batch)
      : { mask: new Uint8Array(this.#options.maskLength ?? 0) };
    const pruneMs = this.#now() - pruneStarted;
    const { blockedMs } = this.#saver.times;
    const isSaved = isTraining && this.#schedule.isDue(this.#step + 1);
    if (isSaved) await this.#saver.settled();
    saving?.announce?.(isSaved);
    const outcome = await this.#outcome(batch, decision);
    if (outcome === "stopped") return false;
    if (outcome === null) return true;
    const { loss, counted, statistics, tokens, batch: sequences, away } = outcome;
    // What the pruner hears of a head that was away is what it hears of one that was pruned.
    const applied = outcome.mask === undefined ? decision : { ...decision, mask: outcome.mask };
    const ms = this.#now() - startedAt;
    const made = {
      mode,
      loss,
      counted,
      decision: applied,
      away,
      statistics,
      tokens,
      batch: sequences,
      ms,
      pruneMs,
      startedAt,
    };
    const step = { step: this.#step, ...made };
    await this.#emit({ type: "step", ...step });
    if (!isTraining) {
      await this.#validate(step);
      return true;
    }
    pruning?.learn(applied, statistics);
    this.#firstLoss ??= loss;
    this.#lastLoss = loss;
    this.#step++;
    if (isSaved) {
      await this.#save();
      if (saving?.waits === true) await this.#saver.settled();
    }
    const waitedMs = this.#saver.times.blockedMs - blockedMs;
    this.#schedule.took(this.#now() - startedAt, { isSaved, waitedMs });
    return true;
  }

  async #outcome(batch: B, decision: PrunerDecision): Promise<StepOutcome | "stopped" | null> {
    try {
      return await this.#ports.step(this.#step, batch, decision);
    } catch (error) {
      if (this.isStopping && error instanceof DOMException && error.name === "AbortError") return "stopped";
      throw error;
    }
  }

  /** Takes in the loss of an evaluation batch; after the last of a validation, tells it and keeps the best heads. */
  async #validate({ step, mode, loss, ms, tokens }: TrainerStep): Promise<void> {
    const { validation, onBest } = this.#ports;
    const mean = loss === null ? null : validation?.onLoss(step, mode, loss) ?? null;
    if (mean === null) return;
    const isBest = validation!.isBest();
    await this.#emit({ type: "validation", step, loss: mean, isBest, ms, tokens });
    if (isBest && step > 0) await onBest?.(step);
  }

  async #save(): Promise<void> {
    const { saving } = this.#ports;
    const step = this.#step;
    if (saving?.write === undefined || saving.read === undefined || this.#saved === step) return;
    this.#saved = step;
    await this.#saver.save(() => saving.read!(step), saving.write);
  }

  async #waitWhilePaused(): Promise<boolean> {
    if (this.#ports.waitWhilePaused !== undefined) return await this.#ports.waitWhilePaused();
    while (this.#paused !== null && !this.isStopping) await this.#paused.promise;
    return !this.isStopping;
  }

  async #emit(event: TrainerEvent): Promise<void> {
    await this.#options.onEvent?.(event);
  }

  #summary(ending: TrainingSummary["ending"], ms: number): TrainingSummary {
    const { validations = [], best = null } = this.#ports.validation ?? {};
    const training = this.#lastLoss === null ? [] : [this.#firstLoss, this.#lastLoss];
    return {
      ending,
      step: this.#step,
      losses: lossesAtEnds(validations.map(({ loss }) => loss), training),
      lastLoss: this.#lastLoss,
      validations,
      best,
      saving: this.#saver.times,
      ms,
    };
  }
}
