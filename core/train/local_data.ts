/**
 * The data side on the same GPU as the base model.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import type { ModelEnds } from "../model/base.ts";
import { embedTokens, type LossSettings, modelLoss, sumLosses, type TokenBatch } from "../model/loss.ts";
import type { DataPort, EmbeddedBatch, LossResult, StepMode } from "../ports.ts";

/** A batch and what it is for; `null` ends the run. */
export type BatchSource = (step: number) => { readonly batch: TokenBatch; readonly mode: StepMode } | null;

/** Embedding, loss and labels in this process, on the engine of the base model. */
export class LocalData implements DataPort {
  readonly #ends: ModelEnds;
  readonly #settings: LossSettings;
  readonly #source: BatchSource;
  #current: { readonly batch: TokenBatch; readonly mode: StepMode } | null = null;

  /**
   * Takes the data side's weights and a source of batches.
   *
   * @param ends Embedding, final norm and LM head.
   * @param settings Label smoothing.
   * @param source Where batches come from.
   */
  constructor(ends: ModelEnds, settings: LossSettings, source: BatchSource) {
    this.#ends = ends;
    this.#settings = settings;
    this.#source = source;
  }

  /** The next batch, embedded. */
  next(step: number): Promise<EmbeddedBatch | null> {
    this.#current = this.#source(step);
    if (this.#current === null) return Promise.resolve(null);
    const { batch, mode } = this.#current;
    return Promise.resolve({
      embedding: embedTokens(this.#ends, batch),
      batch: batch.batch,
      length: batch.length,
      mode,
    });
  }

  /** Loss and dh_L of the batch; the same for a probe, as the batch stays until the next one is asked for. */
  async loss(_step: number, hidden: Tensor): Promise<LossResult> {
    if (this.#current === null) {
      throw new TypeError("Cannot compute the loss as a batch must come first: none did");
    }
    const { batch, mode } = this.#current;
    const { losses, gradient } = modelLoss(this.#ends, hidden, batch, this.#settings, mode === "train");
    const values = await hidden.engine.read(losses);
    for (const tensor of losses) tensor.dispose();
    return { gradient, loss: sumLosses(values) };
  }
}
