/**
 * Which batch comes when: training, with validation before, after and in between.
 *
 * @module
 */

import type { StepMode } from "../contracts/ports.ts";
import { type BatchStream, dataFingerprint, fixedBatches, shuffledBatches } from "../data/batches.ts";
import type { SequenceSet } from "../data/sequences.ts";
import { type LossSettings, maskSumOf, type TokenBatch } from "../model/loss.ts";
import { type RunSettings, TRAINING_DEFAULTS } from "./run_settings.ts";
import { TokenMean } from "./token_mean.ts";

/** A validation. */
export interface BestLoss {
  /** Training steps before the validation. */
  readonly step: number;
  /** The loss. */
  readonly loss: number;
}

/** What a plan is made of. */
export interface TrainingPlanOptions {
  /** Training data. */
  readonly set: SequenceSet;
  /** Validation data. @default {null, none} */
  readonly valid?: SequenceSet | null | undefined;
  /** Sequences of a part of a step, and of a batch of validation data. */
  readonly batch: number;
  /** Seed of the order of the data. */
  readonly seed: number;
  /** Batches of validation data that are evaluated; 0 for all. @default {0} */
  readonly validBatches?: number | undefined;
  /** Training steps from one validation to the next; 0 for those before and after alone. @default {0} */
  readonly evalEvery?: number | undefined;
  /** Validations in a row without a lower loss after which the plan ends; 0 for no such end. @default {0} */
  readonly patience?: number | undefined;
  /** Passes over the training data after which the plan ends, rounded up to a whole step; 0 for no such end. @default {0} */
  readonly epochs?: number | undefined;
  /** Label smoothing of training steps; validation has none. @default {0.1} */
  readonly smoothing?: number | undefined;
  /** Sequences of like length come together, padded to multiples of so many tokens; 0 pads all alike. @default {0} */
  readonly padToMultipleOf?: number | undefined;
}

/** A batch, what it is for, and the settings of its loss. */
export interface PlannedBatch {
  /** Its tokens. */
  readonly batch: TokenBatch;
  /** Train or evaluate. */
  readonly mode: StepMode;
  /** Settings of its loss. */
  readonly loss: LossSettings;
}

/** Places for tokens in the batches of a run. */
export interface PaddingCount {
  /** Places in the batches drawn so far. */
  readonly places: number;
  /** Places there would be if all sequences were padded to the set's length. */
  readonly allPlaces: number;
}

/** Batches of a training set, with a count of what padding to a multiple saves. */
export interface TrainingBatches extends BatchStream, PaddingCount {}

/** Batches in an order by the seed; with `padToMultipleOf` those of like lengths together. */
export function trainingBatches(
  set: SequenceSet,
  { batch, seed, padToMultipleOf }: {
    readonly batch: number;
    readonly seed: number;
    readonly padToMultipleOf: number;
  },
): TrainingBatches {
  const stream = shuffledBatches(set, { batch, seed, padToMultipleOf });
  let places = 0, drawn = 0;
  return {
    get position() {
      return stream.position;
    },
    set position(value: number) {
      stream.position = value;
    },
    get epoch() {
      return stream.epoch;
    },
    get places() {
      return places;
    },
    get allPlaces() {
      return drawn * batch * set.length;
    },
    next() {
      const next = stream.next();
      places += next.batch * next.length;
      drawn++;
      return next;
    },
  };
}

/**
 * Steps of so many passes over a set: the last pass is rounded up to whole steps.
 *
 * @param epochs Passes; a part of one counts too.
 * @param sequences Sequences of the set.
 * @param batch Sequences of a step.
 */
export function stepsOfEpochs(epochs: number, sequences: number, batch: number): number {
  return Math.max(1, Math.ceil(epochs * sequences / batch));
}

/**
 * Hands out batches: validation before the first step, every `evalEvery` steps and after the last one,
 * training in between. The batch of a training step depends on its number alone.
 *
 * @category Training
 */
export class TrainingPlan {
  /** What must be the same where the run is resumed. */
  readonly fingerprint: string;
  /** Validations so far. */
  readonly validations: BestLoss[] = [];
  readonly #options: TrainingPlanOptions;
  /** Both are known when the run begins. */
  #steps = 0;
  /** Batches of so many passes as the options say. */
  #most = Infinity;
  #given: number | null = null;
  #batches: TrainingBatches | null = null;
  readonly #valid: readonly TokenBatch[];
  /** The step that is being validated, or was last. */
  #validated = -1;
  /** Losses of its batches so far, and the number of the batch that was given out last. */
  #losses: number[] = [];
  #evaluated = 0;
  /** The best validation of before the run was resumed. */
  #before: BestLoss | null = null;
  /** True until `isBest` was asked after a validation. */
  #news = false;

  private constructor(options: TrainingPlanOptions, fingerprint: string) {
    const { valid = null, batch, validBatches = TRAINING_DEFAULTS.validBatches } = options;
    this.#options = options;
    this.fingerprint = fingerprint;
    this.#valid = valid === null ? [] : fixedBatches(valid, batch).slice(0, validBatches || undefined);
  }

  /** Makes a plan; `begin` before the first batch. */
  static async create(options: TrainingPlanOptions): Promise<TrainingPlan> {
    const { labelSmoothing } = TRAINING_DEFAULTS;
    const { validBatches = TRAINING_DEFAULTS.validBatches, smoothing = labelSmoothing } = options;
    const { set, valid = null, batch, seed, padToMultipleOf = 0 } = options;
    const validation = valid === null ? null : await dataFingerprint(valid, { batch, batches: validBatches });
    const drawing = {
      batch,
      seed,
      smoothing,
      validation,
      ...(padToMultipleOf > 0 ? { padToMultipleOf } : {}),
    };
    return new TrainingPlan(options, await dataFingerprint(set, drawing));
  }

  /** Takes in the settings of the run. */
  begin({ steps, accumulate = 1 }: Pick<RunSettings, "steps" | "accumulate">): void {
    const { set, batch, seed, padToMultipleOf = 0, epochs = 0 } = this.#options;
    this.#most = epochs === 0 ? Infinity : stepsOfEpochs(epochs, set.sequences.length, batch * accumulate);
    this.#steps = Math.min(steps, this.#most);
    this.#batches = trainingBatches(set, { batch: batch * accumulate, seed, padToMultipleOf });
  }

  /** Goes on from the best validation that a state names. */
  resume(best: BestLoss | null): void {
    this.#before = best;
  }

  /** Goes on after fewer steps: validations that came after them do not count. */
  rewind(step: number): void {
    const kept = this.validations.filter((v) => v.step < step);
    this.validations.splice(0, Infinity, ...kept);
    this.#validated = -1;
    this.#losses = [];
    this.#news = false;
  }

  /**
   * What comes after so many training steps; `null` at the end.
   *
   * @throws {TypeError} If the plan has not begun.
   */
  next(step: number): PlannedBatch | null {
    const batches = this.#begun();
    if (this.#isDue(step)) {
      if (this.#validated !== step) {
        this.#validated = step;
        this.#losses = [];
      }
      const next = this.#validation(this.#losses.length);
      if (next !== null) return { batch: next, mode: "evaluate", loss: { labelSmoothing: 0 } };
    }
    if (step >= this.#steps || this.isOutOfPatience) return null;
    batches.position = step;
    const { smoothing = TRAINING_DEFAULTS.labelSmoothing } = this.#options;
    return { batch: batches.next(), mode: "train", loss: { labelSmoothing: smoothing } };
  }

  /**
   * The batch of a turn, where several people's data takes turns: who asks says what comes next.
   *
   * @returns `null` if there is none: validation is over, or so many passes as `epochs` are, or `patience` is.
   * @throws {TypeError} If the plan has not begun.
   */
  turn({ mode, position, step }: {
    readonly mode: StepMode;
    readonly position: number;
    readonly step: number;
  }): TokenBatch | null {
    const batches = this.#begun();
    if (mode === "evaluate") {
      // A step that begins again, or a run that goes on from before it.
      if (position === 0) this.rewind(step);
      this.#validated = step;
      this.#losses.length = Math.min(this.#losses.length, position);
      return this.#validation(position);
    }
    if (position >= this.#most || this.isOutOfPatience) return null;
    batches.position = position;
    this.#given = position + 1;
    return batches.next();
  }

  /** Batches of its own that a run has trained on, where several people's data takes turns; else `null`. */
  get given(): number | null {
    return this.#given;
  }

  #validation(position: number): TokenBatch | null {
    const next = this.#valid[position];
    if (next !== undefined) this.#evaluated = position;
    return next ?? null;
  }

  #begun(): TrainingBatches {
    if (this.#batches !== null) return this.#batches;
    throw new TypeError(
      "Cannot take a batch as the plan must know the settings of its run: call begin first",
    );
  }

  /**
   * Takes in the loss of a batch; once more where its step has begun again.
   *
   * @returns The loss of the whole validation, if this was the last batch of it; else `null`.
   */
  onLoss(step: number, mode: StepMode, loss: number): number | null {
    if (mode === "train") return null;
    this.#losses[this.#evaluated] = loss;
    if (this.#losses.length < this.#valid.length) return null;
    const mean = new TokenMean();
    for (const [i, loss] of this.#losses.entries()) mean.add(loss, maskSumOf(this.#valid[i]!));
    if (this.validations.at(-1)?.step === step) this.validations.pop();
    this.#news = mean.value < (this.best?.loss ?? Infinity);
    this.validations.push({ step, loss: mean.value });
    return mean.value;
  }

  /** True once after a validation with the best loss so far. */
  isBest(): boolean {
    const news = this.#news;
    this.#news = false;
    return news;
  }

  /** The best validation before the one that comes after so many training steps: what a state notes. */
  bestBefore(step: number): BestLoss | null {
    const all = [...(this.#before === null ? [] : [this.#before]), ...this.validations];
    return all.filter((v) => v.step < step)
      .reduce<BestLoss | null>((best, v) => best === null || v.loss < best.loss ? v : best, null);
  }

  /** Places for tokens in the training batches so far; `null` if it is off. */
  get padding(): PaddingCount | null {
    if (this.#batches === null) return null;
    const { places, allPlaces } = this.#batches;
    return places === allPlaces ? null : { places, allPlaces };
  }

  /** The best validation so far. */
  get best(): BestLoss | null {
    return this.bestBefore(Infinity);
  }

  /** True once so many validations in a row as the options say had no lower loss than one before them. */
  get isOutOfPatience(): boolean {
    const { patience = 0 } = this.#options;
    if (patience === 0 || this.validations.length === 0) return false;
    const best = this.best?.step ?? -1;
    return this.validations.filter(({ step }) => step > best).length >= patience;
  }

  #isDue(step: number): boolean {
    const { evalEvery: every = 0 } = this.#options;
    return this.#valid.length > 0 &&
      (step === 0 || step === this.#steps || (every > 0 && step % every === 0));
  }
}
