/**
 * Training all parameters of a model on one machine, as pre-training needs.
 *
 * @module
 */

import { type AdamWSettings, clipScale, type Engine, type Tensor } from "@edgetuner/kernels";
import type { Gpt2EmbeddingAndHead, Gpt2Layers } from "../model/families/gpt2.ts";
import {
  embedTokens,
  embedTokensBackward,
  type LossSettings,
  modelLoss,
  sumLosses,
  type TokenBatch,
} from "../model/loss.ts";
import { TrainingError } from "../contracts/errors.ts";
import { Tape } from "../model/tape.ts";

/** A model all of whose parameters are trained. */
export interface TrainableModel {
  /** The engine of all weights. */
  readonly engine: Engine;
  /** Layers, made with `trainable` true. */
  readonly layers: Gpt2Layers;
  /** Embedding, final norm and LM head, made with `trainable` true. */
  readonly ends: Gpt2EmbeddingAndHead;
}

/** Settings of one step. */
export interface FullStepSettings {
  /** Optimizer settings of this step. */
  readonly adamw: AdamWSettings;
  /** Settings of the loss. */
  readonly loss: LossSettings;
  /** Limit of the gradients' global norm. @default {no clipping} */
  readonly clipNorm?: number | undefined;
}

/** What came of a step. */
export interface FullStepResult {
  /** The loss before the update. */
  readonly loss: number;
  /** Global norm of the gradients before clipping; `null` without clipping. */
  readonly gradientNorm: number | null;
}

/**
 * Loss and gradients of all parameters; the gradients replace those of the last call.
 *
 * @returns Pieces of the loss; the caller's to read, add up and dispose.
 */
export async function fullGradients(
  model: TrainableModel,
  batch: TokenBatch,
  loss: LossSettings,
): Promise<readonly Tensor[]> {
  const { engine, layers, ends } = model;
  for (const parameter of [...layers.parameters(), ...ends.parameters()]) parameter.zeroGradient();
  using tape = new Tape(engine, { training: true });
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: true });
  const hidden = await layers.forward(tape, embedding, batch, null);
  const { losses, gradient } = modelLoss(ends, hidden.value, batch, { ...loss, gradient: true });
  hidden.addGradient(gradient!);
  await tape.backward();
  using dEmbedding = embedding.takeGradient();
  embedTokensBackward(ends, batch, dEmbedding);
  return losses;
}

/**
 * One training step of all parameters.
 *
 * @throws {TrainingError} If the loss or the gradients' norm is not finite; the parameters are of no use then.
 */
export async function fullTrainingStep(
  model: TrainableModel,
  batch: TokenBatch,
  settings: FullStepSettings,
): Promise<FullStepResult> {
  const { engine, layers, ends } = model;
  const losses = await fullGradients(model, batch, settings.loss);
  const parameters = [...layers.parameters(), ...ends.parameters()];
  const clip = settings.clipNorm === undefined
    ? null
    : clipScale(engine, parameters.map((p) => p.gradient!), settings.clipNorm);
  for (const parameter of parameters) parameter.update(settings.adamw, clip ?? undefined);
  const results = await engine.read(clip === null ? losses : [...losses, clip]);
  for (const tensor of losses) tensor.dispose();
  clip?.dispose();
  const gradientNorm = clip === null ? null : results.pop()![1]!;
  const loss = sumLosses(results);
  requireFinite(loss, gradientNorm ?? 0);
  return { loss, gradientNorm };
}

/**
 * Loss of a batch without training.
 *
 * @throws {TrainingError} If it is not finite.
 */
export async function evaluateLoss(
  model: TrainableModel,
  batch: TokenBatch,
  loss: LossSettings,
): Promise<number> {
  const { engine, layers, ends } = model;
  using tape = new Tape(engine, { training: false });
  const embedding = tape.variable(embedTokens(ends, batch), { needsGradient: false });
  const hidden = await layers.forward(tape, embedding, batch, null);
  const { losses } = modelLoss(ends, hidden.value, batch, { ...loss, gradient: false });
  const values = await engine.read(losses);
  for (const tensor of losses) tensor.dispose();
  const sum = sumLosses(values);
  requireFinite(sum);
  return sum;
}

function requireFinite(...values: readonly number[]): void {
  const bad = values.find((x) => !Number.isFinite(x));
  if (bad === undefined) return;
  throw new TrainingError(
    `Cannot go on training as loss and norm of the gradients must be finite: one of them is ${bad}; lower the learning rate`,
  );
}
