/**
 * What the families share that are built as LLaMA is: RMS norm, rotary positions, grouped-query attention and a
 * gated feed-forward network. A family's file says by a `Decoder` where its models differ. The base is frozen.
 *
 * B batch, T tokens of a sequence, H heads, G heads of keys and values, D head size, d hidden size,
 * F feed-forward size, V vocabulary. Weights are stored [out, in].
 *
 * @module
 */

import { type BaseWeights, disposeAll, WeightReader } from "../weights.ts";
import type {
  BaseLayers,
  BaseShape,
  EmbeddingAndHead,
  EmbeddingAndHeadShape,
  Normalised,
  SequenceShape,
} from "../base.ts";
import { type MatrixParameter, Parameter, type Tape, type Variable } from "../tape.ts";
import {
  addInputGradient,
  attentionOp,
  headNormOp,
  linearOp,
  type LinearWeights,
  loraLinearOp,
  rmsNormOp,
  ropeOp,
} from "../ops.ts";
import {
  addScaled,
  embeddingGather,
  type Engine,
  type GateActivation,
  gated,
  gatedBackward,
  matmul,
  rmsNorm,
  rmsNormBackward,
  ropeTable,
  type Tensor,
} from "@edgetuner/kernels";
import type { NamedArrays } from "../../files/named_arrays.ts";
import type { LayerHeads } from "../../contracts/ports.ts";
import { WeightSum } from "../weight_sum.ts";
import { type Family, type FamilyActivations, type FamilyBytes, separateProjections } from "./family.ts";
import { type RopeConfig, ropeFrequencies, ropeScale } from "./rope.ts";

/** A decoder of this kind: its sizes, and where families differ. */
export interface Decoder {
  /** Shape of the layers. */
  readonly shape: BaseShape;
  /** F, feed-forward size. */
  readonly inner: number;
  /** V, vocabulary entries. */
  readonly vocabulary: number;
  /** Longest sequence. */
  readonly positions: number;
  /** Added to mean squares. */
  readonly epsilon: number;
  /** The LM head is the token embedding. */
  readonly tied: boolean;
  /** What has biases: Q, K and V; the output projection; the feed-forward network. */
  readonly biases: { readonly qkv: boolean; readonly output: boolean; readonly feedForward: boolean };
  /** What the gate of the feed-forward network passes through. */
  readonly activation: GateActivation;
  /** Each head's queries and keys are normalised. */
  readonly headNorms: boolean;
  /** What attention and feed-forward network give is normalised before it is added. */
  readonly outputNorms: boolean;
  /** Gains of norms are this and what the file has. */
  readonly gainOffset: number;
  /** What token embeddings are multiplied by. */
  readonly embeddingScale: number;
  /** What scores are multiplied by. @default {1 / sqrt(D)} */
  readonly scoreScale?: number | undefined;
  /** How each layer attends. */
  readonly attention: readonly LayerAttention[];
}

/** How a layer attends. */
export interface LayerAttention {
  /** Its rotary positions, `null` for none; layers with the same object share a table. */
  readonly rope: RopeConfig | null;
  /** Tokens that each sees at most: itself and those just before it. @default {all before} */
  readonly window?: number | undefined;
}

/** Weights of one layer. */
export interface DecoderLayer {
  /** Norm before the attention, [1, d]. */
  readonly norm1: Parameter;
  /** Q, K and V below each other, [(H + 2 G) * D, d]. */
  readonly qkv: LinearWeights;
  /** Norms of each head's queries and keys, [1, 2 D]; `null` for none. */
  readonly headNorms: Parameter | null;
  /** Output projection, [d, H * D]. */
  readonly projection: LinearWeights;
  /** Norm of what the attention gives, [1, d]; `null` for none. */
  readonly outputNorm1: Parameter | null;
  /** Norm before the feed-forward network, [1, d]. */
  readonly norm2: Parameter;
  /** [F, d] */
  readonly gate: LinearWeights;
  /** [F, d] */
  readonly up: LinearWeights;
  /** [d, F] */
  readonly down: LinearWeights;
  /** Norm of what the feed-forward network gives, [1, d]; `null` for none. */
  readonly outputNorm2: Parameter | null;
}

const PREFIXES = ["model.", ""] as const;

/** The layers of a decoder: what an edge server holds. */
export class DecoderLayers implements BaseLayers {
  /** Sizes, and how it differs from others. */
  readonly decoder: Decoder;
  /** Weights, one entry per layer. */
  readonly layers: readonly DecoderLayer[];
  readonly #engine: Engine;
  /** Angles, of each kind each table larger than the last: a backward pass under way may still need a smaller one. */
  readonly #tables = new Map<RopeConfig, Tensor[]>();

  /**
   * Puts the layers' weights on the GPU.
   *
   * @param engine Where.
   * @param decoder Sizes, and how it differs from others.
   * @param weights The checkpoint.
   * @param baseWeights How matrices are held. @default {"f32"}
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format, or is one too many.
   */
  constructor(engine: Engine, decoder: Decoder, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    this.decoder = decoder;
    this.#engine = engine;
    const { shape, inner: f, biases, headNorms, outputNorms, gainOffset } = decoder;
    const { layers, heads, kvHeads, headSize, hidden: d } = shape;
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    this.layers = Array.from({ length: layers }, (_, l) => {
      const parts = ([["q", heads], ["k", kvHeads], ["v", kvHeads]] as const).map(
        ([target, count]) => [`layers.${l}.self_attn.${target}_proj`, count * headSize] as const,
      );
      const linear = (
        name: string,
        [rows, columns]: readonly [number, number],
        { bias }: { readonly bias: boolean },
      ): LinearWeights => [
        reader.matrix(`layers.${l}.${name}.weight`, rows, columns),
        bias ? reader.row(`layers.${l}.${name}.bias`, rows) : null,
        "outIn",
      ];
      const norm = (name: string) => reader.row(`layers.${l}.${name}.weight`, d, gainOffset);
      const attention = `layers.${l}.self_attn`;
      return {
        norm1: norm("input_layernorm"),
        qkv: [
          reader.stacked(parts.map(([name, rows]) => [`${name}.weight`, rows]), d),
          biases.qkv ? reader.joined(parts.map(([name, rows]) => [`${name}.bias`, rows])) : null,
          "outIn",
        ],
        headNorms: headNorms
          ? reader.joined(["q", "k"].map((of) => [`${attention}.${of}_norm.weight`, headSize]), gainOffset)
          : null,
        projection: linear("self_attn.o_proj", [d, heads * headSize], { bias: biases.output }),
        // Where outputs are normalised, the second norm of the others is the first of those.
        outputNorm1: outputNorms ? norm("post_attention_layernorm") : null,
        norm2: norm(outputNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm"),
        gate: linear("mlp.gate_proj", [f, d], { bias: biases.feedForward }),
        up: linear("mlp.up_proj", [f, d], { bias: biases.feedForward }),
        down: linear("mlp.down_proj", [d, f], { bias: biases.feedForward }),
        outputNorm2: outputNorms ? norm("post_feedforward_layernorm") : null,
      };
    });
    reader.refuseOtherLayerWeights();
  }

  /** Shape of the layers. */
  get shape(): BaseShape {
    return this.decoder.shape;
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return this.layers.flatMap((layer) =>
      Object.values(layer).flatMap((weight) =>
        weight === null ? [] : weight instanceof Parameter ? [weight] : present(weight)
      )
    );
  }

  /** See `BaseLayers.forward`. */
  async forward(
    tape: Tape,
    embedding: Variable,
    shape: SequenceShape,
    heads: LayerHeads | null,
  ): Promise<Variable> {
    const { epsilon, shape: { heads: count, kvHeads }, attention, activation, scoreScale } = this.decoder;
    const first = shape.cache?.first ?? 0;
    const turned = { heads: count + kvHeads, length: shape.length, first };
    const norms = { heads: count, kvHeads, epsilon };
    let h = embedding;
    for (const [l, layer] of this.layers.entries()) {
      const { rope, window } = attention[l]!;
      const x = rmsNormOp(tape, h, layer.norm1, { epsilon });
      let qkv = await loraLinearOp(tape, x, layer.qkv, { layer: l, heads });
      if (layer.headNorms !== null) qkv = headNormOp(tape, qkv, { ...norms, gains: layer.headNorms.value });
      if (rope !== null) {
        ropeOp(tape, qkv, { ...turned, table: this.#ropeTable(rope, first + shape.length) });
      }
      const style = { window, scale: scoreScale };
      const mixed = shape.cache?.attend(tape, qkv, l, style) ??
        attentionOp(tape, qkv, { ...shape, ...style, heads: count, kvHeads });
      h = plusOutput(
        tape,
        h,
        { norm: layer.outputNorm1, epsilon },
        (residual) => linearOp(tape, mixed, layer.projection, residual),
      );
      const x2 = rmsNormOp(tape, h, layer.norm2, { epsilon });
      h = plusOutput(
        tape,
        h,
        { norm: layer.outputNorm2, epsilon },
        (residual) => gatedFeedForwardOp(tape, x2, { ...layer, activation }, residual),
      );
    }
    return h;
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    disposeAll(this.parameters());
    for (const table of [...this.#tables.values()].flat()) table.dispose();
    this.#tables.clear();
  }

  /** Cosines and sines of at least so many positions; the model's longest would often be a waste. */
  #ropeTable(rope: RopeConfig, positions: number): Tensor {
    const tables = this.#tables.get(rope) ?? [];
    let table = tables.at(-1);
    if (table === undefined || table.rows < positions) {
      const rows = 2 ** Math.ceil(Math.log2(Math.max(64, positions)));
      const frequencies = ropeFrequencies(rope, this.decoder.shape.headSize);
      table = ropeTable(this.#engine, frequencies, rows, ropeScale(rope));
      tables.push(table);
      this.#tables.set(rope, tables);
    }
    return table;
  }
}

/** The residual and what a part of a layer gives, normalised if there is a norm for it. */
function plusOutput(
  tape: Tape,
  residual: Variable,
  { norm, epsilon }: { readonly norm: Parameter | null; readonly epsilon: number },
  part: (residual: Variable | null) => Variable,
): Variable {
  return norm === null ? part(residual) : rmsNormOp(tape, part(null), norm, { epsilon, residual });
}

function present([weight, bias]: LinearWeights): MatrixParameter[] {
  return bias === null ? [weight] : [weight, bias];
}

/** Embedding, final norm and LM head of a decoder: what a data device holds. */
export class DecoderEmbeddingAndHead implements EmbeddingAndHead {
  /** Sizes, and how it differs from others. */
  readonly decoder: Decoder;
  /** Token embedding, [V, d]. */
  readonly tokens: MatrixParameter;
  /** LM head, [V, d]; the token embedding if they are tied. */
  readonly lmHead: MatrixParameter;
  /** Gain of the final norm, [1, d]. */
  readonly norm: Parameter;

  /**
   * Puts the weights on the GPU.
   *
   * @param engine Where.
   * @param decoder Sizes, and how it differs from others.
   * @param weights The checkpoint.
   * @param baseWeights How token embedding and LM head are held. @default {"f32"}
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format.
   */
  constructor(engine: Engine, decoder: Decoder, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    this.decoder = decoder;
    const { vocabulary, tied, gainOffset, shape: { hidden: d } } = decoder;
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    this.tokens = reader.matrix("embed_tokens.weight", vocabulary, d);
    this.norm = reader.row("norm.weight", d, gainOffset);
    this.lmHead = tied ? this.tokens : reader.matrix("lm_head.weight", vocabulary, d);
  }

  /** Shape of the ends. */
  get shape(): EmbeddingAndHeadShape {
    const { vocabulary, positions, shape: { hidden } } = this.decoder;
    return { hidden, vocabulary, positions };
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return [...new Set([this.tokens, this.norm, this.lmHead])];
  }

  /** The token embedding; positions come in with the attention. */
  embed(tokens: Uint32Array, _positions: Uint32Array): Tensor {
    const embedding = embeddingGather(this.tokens.value, tokens);
    const { embeddingScale } = this.decoder;
    if (embeddingScale === 1) return embedding;
    const scaled = embedding.engine.zeros(embedding.rows, embedding.columns, "embedding");
    addScaled(embedding, scaled, embeddingScale);
    embedding.dispose();
    return scaled;
  }

  /** RMS norm. */
  normalise(hidden: Tensor): Normalised {
    const gamma = this.norm.value;
    const { y, statistics } = rmsNorm(hidden, gamma, this.decoder.epsilon);
    return {
      y,
      backward: (dy) => rmsNormBackward({ x: hidden, gamma, statistics, dy }),
      [Symbol.dispose]() {
        y.dispose();
        statistics.dispose();
      },
    };
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    disposeAll(this.parameters());
  }
}

/** y = (f(x Wg + bg) * (x Wu + bu)) Wd + bd + residual, with frozen weights; without a residual where that is added elsewhere. */
export function gatedFeedForwardOp(
  tape: Tape,
  x: Variable,
  { gate, up, down, activation }: Pick<DecoderLayer, "gate" | "up" | "down"> & Pick<Decoder, "activation">,
  residual: Variable | null,
): Variable {
  const apply = (x: Tensor, [weight, bias]: LinearWeights, residual?: Tensor) =>
    matmul(x, weight.value, { transposeB: true, bias: bias?.value, residual });
  const gateValue = tape.own(apply(x.value, gate));
  const upValue = tape.own(apply(x.value, up));
  using inner = gated(gateValue, upValue, activation);
  const out = tape.variable(apply(inner, down, residual?.value), {
    needsGradient: x.needsGradient || residual?.needsGradient === true,
  });
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      if (x.needsGradient) {
        using dInner = matmul(dy, down[0].value);
        const { dGate, dUp } = gatedBackward({ gate: gateValue, up: upValue }, dInner, activation);
        addInputGradient(x, dGate, gate);
        addInputGradient(x, dUp, up);
        dGate.dispose();
        dUp.dispose();
      }
      if (residual?.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

/** Bytes of a decoder's weights as they are loaded. */
export function decoderBytes(decoder: Decoder, format: BaseWeights): FamilyBytes {
  const { inner: f, vocabulary, biases, tied, headNorms, outputNorms, shape } = decoder;
  const { layers, heads, kvHeads, headSize, hidden: d } = shape;
  const qkv = (heads + 2 * kvHeads) * headSize;
  const layer = new WeightSum(format, "columns").matrix(qkv, d).matrix(d, heads * headSize)
    .matrix(f, d).matrix(f, d).matrix(d, f).plain(1, d, outputNorms ? 4 : 2);
  if (headNorms) layer.plain(1, 2 * headSize);
  if (biases.qkv) layer.plain(1, qkv);
  if (biases.output) layer.plain(1, d);
  if (biases.feedForward) layer.plain(1, f, 2).plain(1, d);
  const ends = new WeightSum(format, "columns").matrix(vocabulary, d).plain(1, d);
  if (!tied) ends.matrix(vocabulary, d);
  return { layers: layers * layer.bytes, ends: ends.bytes };
}

function decoderActivations({ inner, vocabulary, headNorms, outputNorms }: Decoder): FamilyActivations {
  // Gate and up are kept; on the way back there are d inner, d gate and d up.
  return { inner, vocabulary, keptInner: 2, innerGradients: 3, normStatistics: 1, headNorms, outputNorms };
}

/**
 * The part of a family's record that follows from its `Decoder`.
 *
 * @param decoderOf What a configuration of the family says.
 */
export function decoderParts<C>(
  decoderOf: (config: C) => Decoder,
): Omit<Family<C>, "name" | "title" | "architectures" | "config" | "gguf"> {
  return {
    shape: (config) => decoderOf(config).shape,
    layers: (engine, config, ...more) => new DecoderLayers(engine, decoderOf(config), ...more),
    ends: (engine, config, ...more) => new DecoderEmbeddingAndHead(engine, decoderOf(config), ...more),
    bytes: (config, format) => decoderBytes(decoderOf(config), format),
    activations: (config) => decoderActivations(decoderOf(config)),
    prefixes: PREFIXES,
    storesInOut: false,
    tokenEmbedding: "embed_tokens",
    projections: (shape, layer) => separateProjections(`layers.${layer}`, shape),
    outputProjection: (layer) => `layers.${layer}.self_attn.o_proj`,
    peftTargets: (targets) => targets.map((target) => `${target}_proj`),
  };
}
