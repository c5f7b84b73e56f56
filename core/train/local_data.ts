/**
 * The data side on the same GPU as the base model.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import { type AccumulationStep, splitBatch } from "../contracts/micro_batches.ts";
import type { EmbeddingAndHead } from "../model/base.ts";
import {
  embedTokens,
  type LossSettings,
  maskSumOf,
  modelLoss,
  partOfBatch,
  sumLosses,
  type TokenBatch,
} from "../model/loss.ts";
import { requireFiniteLoss } from "../lora/finite.ts";
import type { DataPort, EmbeddedBatch, LossPass, LossResult, StepMode } from "../contracts/ports.ts";

/** A batch and what it is for; `null` ends the run. */
export type BatchSource = (step: number) =>
  | {
    readonly batch: TokenBatch;
    readonly mode: StepMode;
    /** Settings of its loss, where they are not those of the run. */
    readonly loss?: LossSettings | undefined;
  }
  | null;

/** A batch, or the part of a training step's batch that is computed at a time. */
export interface AccumulatedBatch {
  /** Its tokens. */
  readonly batch: TokenBatch;
  /** Which part of the step it is. */
  readonly accumulation: AccumulationStep;
  /** Sum of the whole batch's mask. */
  readonly maskSum: number;
}

/**
 * Splits a training step's batch by sequences into parts that are computed one after the other.
 *
 * @param batch The whole batch.
 * @param count Parts wanted; never more than there are sequences.
 */
export function accumulationSteps(batch: TokenBatch, count: number): AccumulatedBatch[] {
  const maskSum = maskSumOf(batch);
  const parts = splitBatch(batch, count);
  return parts.map((part) => ({
    batch: parts.length === 1 ? batch : partOfBatch(batch, part),
    accumulation: { index: part.index, count: parts.length, firstRow: part.firstRow },
    maskSum,
  }));
}

/** Embedding, loss and labels in this process, on the engine of the base model. */
export class LocalData implements DataPort {
  readonly #ends: EmbeddingAndHead;
  readonly #settings: LossSettings;
  readonly #source: BatchSource;
  readonly #accumulate: number;
  /** What is left of the step. */
  #parts: AccumulatedBatch[] = [];
  #current: (AccumulatedBatch & { readonly mode: StepMode; readonly loss: LossSettings }) | null = null;
  /** Losses of the step's parts so far, those of the last one by micro-batch. */
  #losses: Float32Array[] = [];
  #pieces: (readonly Float32Array[])[] = [];
  /** Rows of this part whose loss is to come. */
  #left = 0;

  /**
   * Takes the data side's weights and a source of batches.
   *
   * @param ends Embedding, final norm and LM head.
   * @param settings Label smoothing, where a batch does not come with its own.
   * @param source Where batches come from.
   * @param accumulate Parts that training batches are split into, see `RunSettings`. @default {1}
   */
  constructor(ends: EmbeddingAndHead, settings: LossSettings, source: BatchSource, accumulate = 1) {
    this.#ends = ends;
    this.#settings = settings;
    this.#source = source;
    this.#accumulate = accumulate;
  }

  /** The next batch, or the next part of the step's, embedded. */
  next(step: number): Promise<EmbeddedBatch | null> {
    let { mode, loss } = this.#current ?? { mode: "train" as StepMode, loss: this.#settings };
    if (this.#parts.length === 0) {
      const next = this.#source(step);
      if (next === null) return Promise.resolve(null);
      ({ mode, loss = this.#settings } = next);
      this.#parts = accumulationSteps(next.batch, mode === "train" ? this.#accumulate : 1);
      this.#losses = [];
    }
    const current = this.#current = { ...this.#parts.shift()!, mode, loss };
    const { batch, accumulation } = current;
    this.#left = batch.batch * batch.length;
    this.#pieces = [];
    return Promise.resolve({
      embedding: embedTokens(this.#ends, batch),
      batch: batch.batch,
      length: batch.length,
      mode,
      accumulation,
    });
  }

  /**
   * Loss and dh_L of the batch or a micro-batch; the same for a probe, as the batch stays until the next one is
   * asked for.
   *
   * @throws {TrainingError} If the loss is not finite.
   */
  async loss(step: number, hidden: Tensor, pass: LossPass = {}): Promise<LossResult> {
    const { probe = false, microBatch: micro } = pass;
    if (this.#current === null) {
      throw new TypeError("Cannot compute the loss as a batch must come first: none did");
    }
    const { batch, mode, maskSum, loss } = this.#current;
    const settings = { ...loss, maskSum };
    const isWhole = micro === undefined || micro.batch === batch.batch;
    const piece = isWhole ? batch : partOfBatch(batch, micro);
    const { losses, gradient } = modelLoss(this.#ends, hidden, piece, {
      ...settings,
      gradient: mode === "train",
    });
    const values = await hidden.engine.read(losses);
    for (const tensor of losses) tensor.dispose();
    try {
      requireFiniteLoss(step, sumLosses(values), mode);
    } catch (error) {
      gradient?.dispose();
      throw error;
    }
    if (probe) return { gradient, loss: null };
    this.#pieces[micro?.index ?? 0] = values;
    this.#left -= hidden.rows;
    if (this.#left > 0) return { gradient, loss: null };
    this.#losses.push(...this.#pieces.flat());
    if (this.#parts.length > 0) return { gradient, loss: null };
    const counted = mode === "evaluate" ? { counted: maskSum } : {};
    return { gradient, loss: sumLosses(this.#losses), ...counted };
  }
}
