/**
 * What GPT-2 and OPT share: learned positions, a layer norm before each part, and a feed-forward network that
 * is not gated.
 *
 * B batch, T tokens of a sequence, H heads, d hidden size, V vocabulary.
 *
 * @module
 */

import { embeddingGather, type Tensor } from "@edgetuner/kernels";
import type { LayerHeads } from "../../contracts/ports.ts";
import type { EmbeddingAndHead, EmbeddingAndHeadShape, Normalised, SequenceShape } from "../base.ts";
import { attentionOp, layerNormalised, linearOp, type LinearWeights, loraLinearOp, normOp } from "../ops.ts";
import type { MatrixParameter, Parameter, Tape, Variable } from "../tape.ts";
import { disposeAll } from "../weights.ts";

/** Weights of a layer, but for the feed-forward network. */
export interface PreNormLayer {
  /** Norm before the attention: [1, d] each. */
  readonly norm1: readonly [Parameter, Parameter];
  /** Q, K and V. */
  readonly qkv: LinearWeights;
  /** Output projection. */
  readonly projection: LinearWeights;
  /** Norm before the feed-forward network. */
  readonly norm2: readonly [Parameter, Parameter];
}

/** How the layers of a model are computed. */
export interface PreNormModel<L extends PreNormLayer> {
  /** Weights, one entry per layer. */
  readonly layers: readonly L[];
  /** H */
  readonly heads: number;
  /** Added to variances. */
  readonly epsilon: number;
  /** The feed-forward network of a layer, with what it is added to. */
  feedForward(tape: Tape, x: Variable, layer: L, residual: Variable): Variable;
}

/**
 * The layers from E to h_L; see `BaseLayers.forward`.
 *
 * @param model The layers.
 * @param from Records the way back, and E, [B * T, d].
 * @param shape B and T.
 * @param heads Where the LoRA head modules live; `null` for the base model alone.
 */
export async function preNormForward<L extends PreNormLayer>(
  { layers, heads: count, epsilon, feedForward }: PreNormModel<L>,
  { tape, embedding }: { readonly tape: Tape; readonly embedding: Variable },
  shape: SequenceShape,
  heads: LayerHeads | null,
): Promise<Variable> {
  const attentionShape = { ...shape, heads: count };
  let h = embedding;
  for (const [l, layer] of layers.entries()) {
    const x = normOp(tape, h, layer.norm1, epsilon);
    const qkv = await loraLinearOp(tape, x, layer.qkv, { layer: l, heads });
    const mixed = shape.cache?.attend(tape, qkv, l) ?? attentionOp(tape, qkv, attentionShape);
    h = linearOp(tape, mixed, layer.projection, h);
    const x2 = normOp(tape, h, layer.norm2, epsilon);
    h = feedForward(tape, x2, layer, h);
  }
  return h;
}

/** Weights of a model's ends. */
export interface LearnedPositionsWeights {
  /** Token embedding, [V, d]. */
  readonly tokens: MatrixParameter;
  /** Position embedding, [positions + offset, d]. */
  readonly positions: Parameter;
  /** LM head, [V, d]; the token embedding if they are tied. */
  readonly lmHead: MatrixParameter;
  /** Final norm: [1, d] each. */
  readonly norm: readonly [Parameter, Parameter];
}

/** Embedding with learned positions, final layer norm and LM head: what a data device holds. */
export abstract class LearnedPositions implements EmbeddingAndHead {
  /** Token embedding, [V, d]. */
  readonly tokens: MatrixParameter;
  /** Position embedding, [positions + offset, d]. */
  readonly positions: Parameter;
  /** LM head, [V, d]; the token embedding if they are tied. */
  readonly lmHead: MatrixParameter;
  /** Final norm: [1, d] each. */
  readonly norm: readonly [Parameter, Parameter];
  /** Shape of the ends. */
  abstract readonly shape: EmbeddingAndHeadShape;
  readonly #epsilon: number;
  readonly #offset: number;

  /**
   * Takes what was read.
   *
   * @param weights The weights.
   * @param numbers What is added to variances, and rows of the position table before that of the first token.
   */
  constructor(
    { tokens, positions, lmHead, norm }: LearnedPositionsWeights,
    { epsilon, offset = 0 }: { readonly epsilon: number; readonly offset?: number },
  ) {
    this.tokens = tokens;
    this.positions = positions;
    this.lmHead = lmHead;
    this.norm = norm;
    this.#epsilon = epsilon;
    this.#offset = offset;
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return [...new Set([this.tokens, this.positions, ...this.norm, this.lmHead])];
  }

  /** Token embedding + position embedding. */
  embed(tokens: Uint32Array, positions: Uint32Array): Tensor {
    const rows = this.#offset === 0 ? positions : positions.map((position) => position + this.#offset);
    return embeddingGather(this.positions.value, rows, embeddingGather(this.tokens.value, tokens));
  }

  /** Layer norm. */
  normalise(hidden: Tensor): Normalised {
    return layerNormalised(hidden, this.norm, this.#epsilon);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    disposeAll(this.parameters());
  }
}
