/**
 * Which batch comes when: training, with validation before, after and in between.
 *
 * @module
 */

import {
  type BestLoss,
  dataFingerprint,
  fixedBatches,
  maskSumOf,
  type RunSettings,
  type SequenceSet,
  type StepMode,
  type TokenBatch,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text, toggle } from "../flags/flags.ts";
import { paddingSaved, type TrainingBatches, trainingBatches } from "./training_data.ts";

/** Flags of whoever has the data. */
export const PLAN_FLAGS = {
  valid: text("FILE", "", "validation data of the same form, evaluated before and after training"),
  "valid-batches": integer("N", 4, "batches of validation data to evaluate", { min: 1 }),
  "eval-every": integer("N", 0, "evaluate every so many steps too; 0 = only before and after", { min: 0 }),
  "keep-best": toggle(
    "save the heads of the lowest validation loss too, beside --save with '-best' behind its name",
  ),
  smoothing: number("X", 0.1, "label smoothing in training", { min: 0, max: 0.99 }),
};

/** What a plan is made of. */
export interface TrainingPlanOptions {
  /** Training data. */
  readonly set: SequenceSet;
  /** Validation data; none if `null`. */
  readonly valid: SequenceSet | null;
  /** Sequences of a part of a step, and of a batch of validation data. */
  readonly batch: number;
  /** Seed of the order of the data. */
  readonly seed: number;
  /** Flags with their values. */
  readonly flags:
    & Pick<FlagValues<typeof PLAN_FLAGS>, "valid-batches" | "eval-every" | "smoothing">
    & { readonly buckets: number };
}

/**
 * Hands out batches: validation before the first step, every `eval-every` steps and after the last one,
 * training in between. The batch of a training step depends on its number alone.
 */
export class TrainingPlan {
  /** What must be the same where the run is taken up again. */
  readonly fingerprint: string;
  /** Validations so far. */
  readonly validations: BestLoss[] = [];
  readonly #options: TrainingPlanOptions;
  /** Both are known when the run begins. */
  #steps = 0;
  #batches: TrainingBatches | null = null;
  readonly #valid: readonly TokenBatch[];
  /** The step that is being validated, or was last. */
  #validated = -1;
  /** Losses of its batches. */
  #losses: number[] = [];
  /** The best validation of before the run was taken up again. */
  #before: BestLoss | null = null;
  /** True until `isBest` was asked after a validation. */
  #news = false;

  private constructor(options: TrainingPlanOptions, fingerprint: string) {
    const { valid, batch, flags } = options;
    this.#options = options;
    this.fingerprint = fingerprint;
    this.#valid = valid === null ? [] : fixedBatches(valid, batch).slice(0, flags["valid-batches"]);
  }

  /** Makes a plan; `begin` before the first batch. */
  static async create(options: TrainingPlanOptions): Promise<TrainingPlan> {
    const { set, valid, batch, seed, flags } = options;
    const validation = valid === null
      ? null
      : await dataFingerprint(valid, { batch, batches: flags["valid-batches"] });
    const { smoothing, buckets } = flags;
    const drawing = { batch, seed, smoothing, validation, ...(buckets > 0 ? { buckets } : {}) };
    return new TrainingPlan(options, await dataFingerprint(set, drawing));
  }

  /** Takes in the settings of the run. */
  begin({ steps, accumulate = 1 }: Pick<RunSettings, "steps" | "accumulate">): void {
    const { set, batch, seed } = this.#options;
    this.#steps = steps;
    const { buckets } = this.#options.flags;
    this.#batches = trainingBatches(set, { batch: batch * accumulate, seed, buckets });
  }

  /** Goes on from the best validation that a checkpoint names. */
  resume(best: BestLoss | null): void {
    this.#before = best;
  }

  /** What comes after so many training steps; `null` at the end. */
  next(step: number): { readonly batch: TokenBatch; readonly mode: StepMode } | null {
    if (this.#isDue(step)) {
      if (this.#validated !== step) {
        this.#validated = step;
        this.#losses = [];
      }
      const next = this.#valid[this.#losses.length];
      if (next !== undefined) return { batch: next, mode: "evaluate" };
    }
    if (step >= this.#steps) return null;
    const batches = this.#batches!;
    batches.position = step;
    return { batch: batches.next(), mode: "train" };
  }

  /**
   * Takes in the loss of a batch.
   *
   * @returns The loss of the whole validation, if this was the last batch of it; else `null`.
   */
  onLoss(step: number, mode: StepMode, loss: number): number | null {
    if (mode === "train") return null;
    this.#losses.push(loss);
    if (this.#losses.length < this.#valid.length) return null;
    // Batches may have different numbers of places that count.
    const weights = this.#valid.map(maskSumOf);
    const all = weights.reduce((a, b) => a + b, 0);
    const mean = this.#losses.reduce((sum, l, i) => sum + l * weights[i]! / all, 0);
    this.#news = this.#isLower(mean);
    this.validations.push({ step, loss: mean });
    return mean;
  }

  /** True once after a validation with the lowest loss so far. */
  isBest(): boolean {
    const news = this.#news;
    this.#news = false;
    return news;
  }

  /** The best validation before the one that comes after so many training steps: what a checkpoint notes. */
  bestBefore(step: number): BestLoss | null {
    const all = [...(this.#before === null ? [] : [this.#before]), ...this.validations];
    return all.filter((v) => v.step < step)
      .reduce<BestLoss | null>((best, v) => best === null || v.loss < best.loss ? v : best, null);
  }

  /** What buckets have saved so far; `null` without any. */
  get padding(): ReturnType<typeof paddingSaved> {
    return this.#batches === null ? null : paddingSaved(this.#batches);
  }

  /** The best validation so far. */
  get best(): BestLoss | null {
    return this.bestBefore(Infinity);
  }

  #isLower(loss: number): boolean {
    return loss < (this.best?.loss ?? Infinity);
  }

  #isDue(step: number): boolean {
    const every = this.#options.flags["eval-every"];
    return this.#valid.length > 0 &&
      (step === 0 || step === this.#steps || (every > 0 && step % every === 0));
  }
}
