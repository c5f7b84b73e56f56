/**
 * The two ports of the training loop: where the head modules live, and where the data lives.
 * Which implementation is plugged in decides whether that is the same GPU, other virtual devices
 * in the process, or machines behind a network. The loop does not know.
 *
 * T = tokens of a step (batch x sequence), d = hidden size, c = LoRA targets, L layers, H heads.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import type { AccumulationStep, MicroBatch } from "./micro_batches.ts";

/** What a step is for. */
export type StepMode = "train" | "evaluate";

/**
 * What the head modules do in a step. A probe goes forward and back as in training, with the same
 * dropout, and returns the gradients' norms, but changes no weights, moments or counts of updates.
 */
export type HeadMode = StepMode | "probe";

/** What the head modules are told when a step begins, or another part of it. */
export interface HeadStep {
  /** Step number; equal on all machines of a run. */
  readonly step: number;
  /** Train, evaluate or probe. In evaluation there is no dropout and no backward pass. */
  readonly mode: HeadMode;
  /** Head mask z, [L * H]: 1 = pruned in this step. */
  readonly mask: Uint8Array;
  /** What the batch, or the part of it, is split into. @default {one micro-batch} */
  readonly microBatches?: readonly MicroBatch[];
  /** Which part of the step this is; the mask is the same in all of them. @default {the whole step} */
  readonly accumulation?: AccumulationStep;
}

/** Something under way that will be added to a tensor. */
export interface PendingSum {
  /** Waits for it and adds it. */
  addTo(target: Tensor): Promise<void>;
  /** If set, nothing else is computed before this resolves: for comparisons without any overlap. */
  readonly before?: Promise<unknown>;
}

/** Statistics of a training step, one entry per head module, [L * H]; 0 for pruned heads. */
export interface HeadStatistics {
  /** sqrt(sum over the head's A and B of all targets of ||grad||_F^2) / 3. */
  readonly gradientNorm?: Float32Array;
  /** ||Delta W||_F. */
  readonly loraNorm?: Float32Array;
  /** ||theta_t - theta_(t-1)||_F / ||theta_t||_F of the head's weights over the step. */
  readonly weightChange?: Float32Array;
  /** Global norm of the step's gradients before they were clipped; only where they are. */
  readonly globalNorm?: number;
}

/** The head modules as the layers of the base model see them. */
export interface LayerHeads {
  /**
   * Starts computing the Deltas of a layer's kept heads.
   *
   * @param layer Layer, from 0.
   * @param x Input of the attention, [T, d]; not changed while pending.
   * @returns What will be added to Q, K and V, [T, 3 d]; `null` if no head of the layer is kept.
   */
  forward(layer: number, x: Tensor): PendingSum | null;
  /**
   * Starts the way back through a layer's kept heads.
   *
   * @param layer Layer, from 0.
   * @param dqkv Gradient of Q, K and V, [T, 3 d]; not changed while pending.
   * @param options `needsInput` is false if the gradient of `x` is not needed: nothing trainable lies below.
   * @returns What will be added to the gradient of `x`, [T, d]; `null` if there is nothing.
   */
  backward(layer: number, dqkv: Tensor, options: { readonly needsInput: boolean }): PendingSum | null;
}

/** Where the head modules live. */
export interface HeadPort extends LayerHeads {
  /** Begins a step, or another part of it: gradients are then added to those of the parts before. */
  beginStep(step: HeadStep): Promise<void>;
  /** The same head modules for one micro-batch of the step; needed only where batches are split. */
  microBatch?(microBatch: MicroBatch): LayerHeads;
  /**
   * Ends a training step, after its last part: the kept heads are updated. Returns the statistics asked
   * for at the start of the run. After a probe nothing is updated, and `gradientNorm` alone is returned.
   */
  endStep(): Promise<HeadStatistics>;
}

/** The batch of a step, or a part of it, embedded. */
export interface EmbeddedBatch {
  /** E = embed(tokens), [B * T, d]; the loop's to dispose. */
  readonly embedding: Tensor;
  /** B, sequences. */
  readonly batch: number;
  /** T, tokens of each sequence. */
  readonly length: number;
  /** Train or evaluate. */
  readonly mode: StepMode;
  /** Which part of the step this is. @default {the whole step} */
  readonly accumulation?: AccumulationStep;
}

/** What the data side makes of the last hidden state. */
export interface LossResult {
  /** dh_L, [B * T, d]; `null` in evaluation. The loop's to dispose. */
  readonly gradient: Tensor | null;
  /** The loss of the whole step, if the data device shares it; `null` before its last part and micro-batch. */
  readonly loss: number | null;
  /** In evaluation how many tokens the loss is the mean of, where that is known. */
  readonly counted?: number | undefined;
}

/** What pass a hidden state is of. */
export interface LossPass {
  /** True for a probe: only the gradient is computed, and the batch's real pass follows. @default {false} */
  readonly probe?: boolean;
  /** The micro-batch. @default {all of the batch} */
  readonly microBatch?: MicroBatch;
}

/** Where embedding, final norm, LM head, labels and loss live. */
export interface DataPort {
  /** The next step's batch, or the next part of this step's; `null` when there is none left. */
  next(step: number): Promise<EmbeddedBatch | null>;
  /**
   * Final norm, logits and loss of the batch that `next` returned last, or of one micro-batch of it. Those may
   * come in any order and at once; losses and gradients are the whole batch's.
   *
   * @param hidden h_L, [rows, d].
   * @param pass What pass it is of. @default {the step's own, unsplit}
   */
  loss(step: number, hidden: Tensor, pass?: LossPass): Promise<LossResult>;
}
