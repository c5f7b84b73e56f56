/**
 * OPT: as GPT-2 in structure, with relu, projections of their own for Q, K and V, and learned positions
 * that begin at row 2. The sizes with a norm before each part are done, that is all but `opt-350m`.
 * The base is frozen.
 *
 * B batch, T tokens of a sequence, H heads, d hidden size, F feed-forward size, V vocabulary. Weights
 * are stored [out, in].
 *
 * @module
 */

import { type Engine, matmul, relu, reluBackward } from "@edgetuner/kernels";
import type { LayerHeads } from "../../contracts/ports.ts";
import type { MatrixParameter, Parameter, Tape, Variable } from "../tape.ts";
import type { BaseLayers, BaseShape, EmbeddingAndHeadShape, SequenceShape } from "../base.ts";
import { addInputGradient, type LinearWeights } from "../ops.ts";
import type { NamedArrays } from "../../files/named_arrays.ts";
import { LearnedPositions, preNormForward } from "./pre_norm.ts";
import { WeightSum } from "../weight_sum.ts";
import { type Family, separateProjections } from "./family.ts";
import {
  type BaseWeights,
  checkHeads,
  ConfigFields,
  disposeAll,
  refuseForeign,
  WeightReader,
} from "../weights.ts";

/** Shape of an OPT model, named as in its `config.json`. */
export interface OptConfig {
  /** The family. */
  readonly model_type: "opt";
  /** L, layers. */
  readonly num_hidden_layers: number;
  /** H, attention heads. */
  readonly num_attention_heads: number;
  /** d, hidden size. */
  readonly hidden_size: number;
  /** F, feed-forward size. */
  readonly ffn_dim: number;
  /** V, vocabulary entries. */
  readonly vocab_size: number;
  /** Longest sequence. */
  readonly max_position_embeddings: number;
  /** Projections have biases. */
  readonly enable_bias: boolean;
  /** The LM head is the token embedding. */
  readonly tie_word_embeddings: boolean;
}

/** Added to variances: PyTorch's default, which OPT has no setting for. */
const EPSILON = 1e-5;
/** Rows of the position table before that of the first token. */
const POSITION_OFFSET = 2;
const PREFIXES = ["model.decoder.", "decoder.", ""] as const;

/**
 * Checks a `config.json` and takes what OPT needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function optConfig(json: unknown): OptConfig {
  const fields = new ConfigFields(json);
  const hidden = fields.integer("hidden_size");
  const heads = fields.integer("num_attention_heads");
  fields.only("do_layer_norm_before", [true], "norms after each part, as in opt-350m, are not done");
  fields.only(
    "word_embed_proj_dim",
    [hidden],
    "hidden_size; embeddings of another width, as in opt-350m, are not done",
  );
  fields.only("_remove_final_layer_norm", [false], "a final norm is expected");
  fields.only("layer_norm_elementwise_affine", [true], "norms have gains and offsets");
  fields.only("activation_function", ["relu"]);
  refuseForeign(fields);
  checkHeads(hidden, heads, 4);
  return {
    model_type: "opt",
    num_hidden_layers: fields.integer("num_hidden_layers"),
    num_attention_heads: heads,
    hidden_size: hidden,
    ffn_dim: fields.integer("ffn_dim"),
    vocab_size: fields.integer("vocab_size"),
    max_position_embeddings: fields.integer("max_position_embeddings", 2048),
    enable_bias: fields.boolean("enable_bias") ?? true,
    tie_word_embeddings: fields.boolean("tie_word_embeddings") ?? true,
  };
}

/** Shape of the layers of an OPT. */
export function optShape(config: OptConfig): BaseShape {
  const { num_hidden_layers: layers, num_attention_heads: heads, hidden_size: hidden } = config;
  return { layers, heads, kvHeads: heads, hidden, headSize: hidden / heads };
}

/** Weights of one layer. */
export interface OptLayer {
  /** Norm before the attention: [1, d] each. */
  readonly norm1: readonly [Parameter, Parameter];
  /** Q, K and V below each other, [3 d, d]. */
  readonly qkv: LinearWeights;
  /** Output projection, [d, d]. */
  readonly projection: LinearWeights;
  /** Norm before the feed-forward network. */
  readonly norm2: readonly [Parameter, Parameter];
  /** [F, d] */
  readonly up: LinearWeights;
  /** [d, F] */
  readonly down: LinearWeights;
}

/** The layers of an OPT: what an edge server holds. */
export class OptLayers implements BaseLayers {
  /** Shape of the model. */
  readonly config: OptConfig;
  /** Weights, one entry per layer. */
  readonly layers: readonly OptLayer[];

  /**
   * Puts the layers' weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param baseWeights How matrices are held. @default {"f32"}
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format, or is one too many.
   */
  constructor(engine: Engine, config: OptConfig, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    this.config = config;
    const { hidden_size: d, ffn_dim: f, enable_bias } = config;
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    this.layers = Array.from({ length: config.num_hidden_layers }, (_, l) => {
      const qkv = ["q", "k", "v"].map((target) => `layers.${l}.self_attn.${target}_proj`);
      const linear = (name: string, rows: number, columns: number): LinearWeights => [
        reader.matrix(`layers.${l}.${name}.weight`, rows, columns),
        enable_bias ? reader.row(`layers.${l}.${name}.bias`, rows) : null,
        "outIn",
      ];
      const norm = (name: string): [Parameter, Parameter] => [
        reader.row(`layers.${l}.${name}.weight`, d),
        reader.row(`layers.${l}.${name}.bias`, d),
      ];
      return {
        norm1: norm("self_attn_layer_norm"),
        qkv: [
          reader.stacked(qkv.map((name) => [`${name}.weight`, d]), d),
          enable_bias ? reader.joined(qkv.map((name) => [`${name}.bias`, d])) : null,
          "outIn",
        ],
        projection: linear("self_attn.out_proj", d, d),
        norm2: norm("final_layer_norm"),
        up: linear("fc1", f, d),
        down: linear("fc2", d, f),
      };
    });
    reader.refuseOtherLayerWeights();
  }

  /** Shape of the layers. */
  get shape(): BaseShape {
    return optShape(this.config);
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return this.layers.flatMap((
      { norm1, qkv, projection, norm2, up, down },
    ) => [...norm1, ...linears([qkv, projection]), ...norm2, ...linears([up, down])]);
  }

  /** See `BaseLayers.forward`. */
  async forward(
    tape: Tape,
    embedding: Variable,
    shape: SequenceShape,
    heads: LayerHeads | null,
  ): Promise<Variable> {
    const { num_attention_heads } = this.config;
    const model = {
      layers: this.layers,
      heads: num_attention_heads,
      epsilon: EPSILON,
      feedForward: reluFeedForwardOp,
    };
    return await preNormForward<OptLayer>(model, { tape, embedding }, shape, heads);
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    disposeAll(this.parameters());
  }
}

function linears(all: readonly LinearWeights[]): MatrixParameter[] {
  return all.flatMap(([weight, bias]) => bias === null ? [weight] : [weight, bias]);
}

/** Embedding, final norm and LM head of an OPT: what a data device holds. */
export class OptEmbeddingAndHead extends LearnedPositions {
  /** Shape of the model. */
  readonly config: OptConfig;

  /**
   * Puts the weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param baseWeights How token embedding and LM head are held. @default {"f32"}
   * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format.
   */
  constructor(engine: Engine, config: OptConfig, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    const { vocab_size: vocabulary, hidden_size: d, max_position_embeddings } = config;
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    const tokens = reader.matrix("embed_tokens.weight", vocabulary, d);
    const positions = reader.table("embed_positions.weight", max_position_embeddings + POSITION_OFFSET, d);
    const norm = [reader.row("final_layer_norm.weight", d), reader.row("final_layer_norm.bias", d)] as const;
    const lmHead = config.tie_word_embeddings ? tokens : reader.matrix("lm_head.weight", vocabulary, d);
    super({ tokens, positions, lmHead, norm }, { epsilon: EPSILON, offset: POSITION_OFFSET });
    this.config = config;
  }

  /** Shape of the ends. */
  override get shape(): EmbeddingAndHeadShape {
    const { hidden_size: hidden, vocab_size: vocabulary, max_position_embeddings: positions } = this.config;
    return { hidden, vocabulary, positions };
  }
}

/** y = relu(x W1 + b1) W2 + b2 + residual, with frozen weights. */
export function reluFeedForwardOp(
  tape: Tape,
  x: Variable,
  { up, down }: Pick<OptLayer, "up" | "down">,
  residual: Variable,
): Variable {
  const inner = tape.own(matmul(x.value, up[0].value, { transposeB: true, bias: up[1]?.value }));
  relu(inner);
  const y = matmul(inner, down[0].value, {
    transposeB: true,
    bias: down[1]?.value,
    residual: residual.value,
  });
  const out = tape.variable(y, { needsGradient: x.needsGradient || residual.needsGradient });
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      if (x.needsGradient) {
        using dInner = matmul(dy, down[0].value);
        reluBackward(inner, dInner);
        addInputGradient(x, dInner, up);
      }
      if (residual.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

function optBytes(config: OptConfig, format: BaseWeights) {
  const { hidden_size: d, ffn_dim: f, vocab_size, max_position_embeddings } = config;
  const layer = new WeightSum(format, "columns").matrix(3 * d, d).matrix(d, d).matrix(f, d).matrix(d, f)
    .plain(1, d, 4);
  if (config.enable_bias) layer.plain(1, 3 * d).plain(1, d, 2).plain(1, f);
  const ends = new WeightSum(format, "columns").matrix(vocab_size, d).plain(1, d, 2)
    .plain(max_position_embeddings + POSITION_OFFSET, d);
  if (!config.tie_word_embeddings) ends.matrix(vocab_size, d);
  return { layers: config.num_hidden_layers * layer.bytes, ends: ends.bytes };
}

function optActivations({ ffn_dim: inner, vocab_size: vocabulary }: OptConfig) {
  // The ReLU is in place.
  return { inner, vocabulary, keptInner: 1, innerGradients: 1, normStatistics: 2 };
}

/** All that is known of OPT. */
export const optFamily: Family<OptConfig> = {
  name: "opt",
  title: "OPT",
  architectures: ["OPTForCausalLM"],
  config: optConfig,
  shape: optShape,
  layers: (...args) => new OptLayers(...args),
  ends: (...args) => new OptEmbeddingAndHead(...args),
  bytes: optBytes,
  activations: optActivations,
  prefixes: PREFIXES,
  storesInOut: false,
  tokenEmbedding: "embed_tokens",
  projections: (shape, layer) => separateProjections(`layers.${layer}`, shape),
  outputProjection: (layer) => `layers.${layer}.self_attn.out_proj`,
  peftTargets: (targets) => targets.map((target) => `${target}_proj`),
  gguf: null, // llama.cpp has no architecture for it
};
