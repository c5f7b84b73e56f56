/**
 * What the training loop asks of a model, whatever its family: layers, which an edge server holds, and
 * ends (embedding, final norm, LM head), which a data device holds.
 *
 * B batch, T tokens of a sequence, H heads, G heads of keys and values, D head size, d hidden
 * size (H * D in most models), V vocabulary.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import type { LayerHeads } from "../contracts/ports.ts";
import type { MatrixParameter, Tape, Variable } from "./tape.ts";

/** Shape of a model's layers. */
export interface BaseShape {
  /** L, layers. */
  readonly layers: number;
  /** H, attention heads. */
  readonly heads: number;
  /** G, heads of keys and values; divides H. */
  readonly kvHeads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size: d / H in most models. */
  readonly headSize: number;
}

/** How a layer's attention differs from the usual one. */
export interface AttentionStyle {
  /** Tokens that each sees at most: itself and those just before it. @default {all before} */
  readonly window?: number | undefined;
  /** What scores are multiplied by. @default {1 / sqrt(D)} */
  readonly scale?: number | undefined;
}

/** Keys and values of the tokens before, in generation: what takes the place of the causal attention. */
export interface AttentionCache {
  /** Position of the first token that is new. */
  readonly first: number;
  /**
   * Attention of the new tokens to those before and to themselves.
   *
   * @param tape Where the result lives.
   * @param qkv Q, K and V of the new tokens, [B * T, (H + 2 G) * D].
   * @param layer Layer, from 0.
   * @param style How its attention differs. @default {as usual}
   * @returns [B * T, H * D]
   */
  attend(tape: Tape, qkv: Variable, layer: number, style?: AttentionStyle): Variable;
}

/** What a forward pass needs to know of its rows. */
export interface SequenceShape {
  /** B, sequences. */
  readonly batch: number;
  /** T, tokens of each sequence. */
  readonly length: number;
  /** Tokens before these, in generation. @default {none} */
  readonly cache?: AttentionCache;
}

/** Layers between embedding and final norm. */
export interface BaseLayers extends Disposable {
  /** Shape of the layers. */
  readonly shape: BaseShape;
  /** All weights, in order. */
  parameters(): MatrixParameter[];
  /**
   * The layers from E to h_L. Q, K and V of a layer are one tensor [B * T, (H + 2 G) * D], to which the
   * head modules' Deltas are added.
   *
   * @param tape Records the way back.
   * @param embedding E, [B * T, d].
   * @param shape B and T, and what came before.
   * @param heads Where the LoRA head modules live; `null` for the base model alone.
   */
  forward(
    tape: Tape,
    embedding: Variable,
    shape: SequenceShape,
    heads: LayerHeads | null,
  ): Promise<Variable>;
}

/** Shape of a model's ends. */
export interface EmbeddingAndHeadShape {
  /** d, hidden size. */
  readonly hidden: number;
  /** V, vocabulary entries. */
  readonly vocabulary: number;
  /** Longest sequence, in tokens. */
  readonly positions: number;
}

/** A normalised hidden state; what the backward pass needs is freed with it. */
export interface Normalised extends Disposable {
  /** [rows, d]; freed with this. */
  readonly y: Tensor;
  /**
   * The way back.
   *
   * @param dy Gradient of `y`, [rows, d].
   * @returns Gradient of what was normalised, [rows, d]; the caller's to dispose.
   */
  backward(dy: Tensor): Tensor;
}

/** Embedding, final norm and LM head. */
export interface EmbeddingAndHead extends Disposable {
  /** Shape of the ends. */
  readonly shape: EmbeddingAndHeadShape;
  /** LM head, [V, d]. */
  readonly lmHead: MatrixParameter;
  /** All weights, in order. */
  parameters(): MatrixParameter[];
  /**
   * E of tokens.
   *
   * @param tokens [rows], each below V.
   * @param positions Place of each token in its sequence, [rows], each below `shape.positions`.
   * @returns [rows, d]; the caller's to dispose.
   */
  embed(tokens: Uint32Array, positions: Uint32Array): Tensor;
  /**
   * The final norm.
   *
   * @param hidden h_L, [rows, d]; must live as long as the result.
   */
  normalise(hidden: Tensor): Normalised;
}
