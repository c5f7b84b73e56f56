/**
 * One fine-tuning step, wherever heads and data are.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { Gpt2Layers } from "../model/gpt2.ts";
import type { DataPort, EmbeddedBatch, HeadMode, HeadPort, HeadStatistics } from "../ports.ts";
import { Tape } from "../tape.ts";

/** What a step works on. */
export interface StepContext {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: Gpt2Layers;
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
export function runStep(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
  mask: Uint8Array,
): Promise<StepOutcome> {
  return pass(context, step, batch, mask, batch.mode);
}

/**
 * G of a training step as it is with no head pruned, before the step itself: an extra forward and
 * backward pass on the same batch, with the same dropout, that changes no weights, moments or counts
 * of updates. The batch's embedding is left as it is.
 *
 * @param context Base model and ports.
 * @param step Step number.
 * @param batch The embedded batch, from `DataPort.next`.
 * @returns `gradientNorm`, [L * H].
 */
export async function probeStep(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
): Promise<Float32Array> {
  const { engine, base } = context;
  const { rows, columns } = batch.embedding;
  const embedding = engine.tensor(rows, columns, "embedding of a probe");
  engine.copy(batch.embedding, embedding);
  const mask = new Uint8Array(base.config.n_layer * base.config.n_head);
  const { statistics } = await pass(context, step, { ...batch, embedding }, mask, "probe");
  return statistics.gradientNorm!;
}

async function pass(
  context: StepContext,
  step: number,
  batch: EmbeddedBatch,
  mask: Uint8Array,
  mode: HeadMode,
): Promise<StepOutcome> {
  const { engine, base, heads, data } = context;
  using tape = new Tape(engine, mode !== "evaluate");
  // Nothing trainable lies below layer 0, so E needs no gradient.
  const embedding = tape.variable(batch.embedding, false);
  await heads.beginStep({ step, mode, mask });
  const hidden = await base.forward(tape, embedding, batch, heads);
  const { loss, gradient } = await data.loss(step, hidden.value, mode === "probe");
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
