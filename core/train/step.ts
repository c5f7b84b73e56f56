/**
 * One fine-tuning step, wherever heads and data are.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { BaseLayers } from "../model/base.ts";
import type { DataPort, EmbeddedBatch, HeadPort, HeadStatistics } from "../ports.ts";
import { Tape } from "../tape.ts";

/** What a step works on. */
export interface StepContext {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: BaseLayers;
  /** Where the head modules live. */
  readonly heads: HeadPort;
  /** Where embedding, labels and loss live. */
  readonly data: DataPort;
}

/** What came of a step. */
export interface StepOutcome {
  /** The loss, if the data device shares it. */
  readonly loss: number | null;
  /** Statistics of a training step; empty in evaluation. */
  readonly statistics: HeadStatistics;
}

/**
 * Runs the layers forward on an embedded batch, asks the data side for the loss, and in training
 * goes back and updates the kept heads. Disposes the batch's embedding.
 *
 * @param context Base model and ports.
 * @param step Step number.
 * @param batch The embedded batch, from `DataPort.next`.
 * @param mask Head mask z, [L * H], 1 = pruned.
 */
export async function runStep(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
  mask: Uint8Array,
): Promise<StepOutcome> {
  const { engine, base, heads, data } = context;
  const { mode } = batch;
  using tape = new Tape(engine, mode === "train");
  // Nothing trainable lies below layer 0, so E needs no gradient.
  const embedding = tape.variable(batch.embedding, false);
  await heads.beginStep({ step, mode, mask });
  const hidden = await base.forward(tape, embedding, batch, heads);
  const { loss, gradient } = await data.loss(step, hidden.value);
  if (mode === "evaluate") return { loss, statistics: {} };
  if (gradient !== null) {
    if (hidden.needsGradient) {
      hidden.addGradient(gradient);
      await tape.backward();
    } else {
      gradient.dispose(); // every head of every layer is pruned: there is nothing to learn
    }
  }
  return { loss, statistics: await heads.endStep() };
}
