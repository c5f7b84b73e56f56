/**
 * LLaMA and what shares its architecture and `model_type` (LLaMA 2 and 3, TinyLlama, SmolLM2): RMS
 * norm, rotary positions, grouped-query attention, a gated feed-forward network. The base is frozen.
 *
 * B batch, T tokens of a sequence, H heads, G heads of keys and values, D head size, d = H * D hidden
 * size, F feed-forward size, V vocabulary. Weights are stored [out, in].
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
import type { MatrixParameter, Parameter, Tape, Variable } from "../tape.ts";
import {
  addInputGradient,
  attentionOp,
  linearOp,
  type LinearWeights,
  loraLinearOp,
  rmsNormOp,
  ropeOp,
} from "../ops.ts";
import {
  embeddingGather,
  type Engine,
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
import { type Family, separateProjections } from "./family.ts";
import { type GgufFields, type GgufNames, type GgufReading, rounded, unpermuted } from "./gguf.ts";
import { type LlamaConfig, llamaConfig, llamaShape, ropeFrequencies } from "./llama_config.ts";

/** Weights of one layer. */
export interface LlamaLayer {
  /** Norm before the attention, [1, d]. */
  readonly norm1: Parameter;
  /** Q, K and V below each other, [(H + 2 G) * D, d]. */
  readonly qkv: LinearWeights;
  /** Output projection, [d, d]. */
  readonly projection: LinearWeights;
  /** Norm before the feed-forward network, [1, d]. */
  readonly norm2: Parameter;
  /** [F, d] */
  readonly gate: LinearWeights;
  /** [F, d] */
  readonly up: LinearWeights;
  /** [d, F] */
  readonly down: LinearWeights;
}

const PREFIXES = ["model.", ""] as const;

/** The layers of a LLaMA: what an edge server holds. */
export class LlamaLayers implements BaseLayers {
  /** Shape of the model. */
  readonly config: LlamaConfig;
  /** Weights, one entry per layer. */
  readonly layers: readonly LlamaLayer[];
  readonly #engine: Engine;
  /** Angles, each table larger than the last: a backward pass under way may still need a smaller one. */
  readonly #tables: Tensor[] = [];

  /**
   * Puts the layers' weights on the GPU.
   *
   * @param engine Where.
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param baseWeights How matrices are held. @default {"f32"}
   * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format, or is one too many.
   */
  constructor(engine: Engine, config: LlamaConfig, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    this.config = config;
    this.#engine = engine;
    const { hidden_size: d, intermediate_size: f, attention_bias, mlp_bias } = config;
    const { kvHeads, headSize } = llamaShape(config);
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    this.layers = Array.from({ length: config.num_hidden_layers }, (_, l) => {
      const parts = ([["q", d], ["k", kvHeads * headSize], ["v", kvHeads * headSize]] as const).map(
        ([target, rows]) => [`layers.${l}.self_attn.${target}_proj`, rows] as const,
      );
      const linear = (name: string, rows: number, columns: number, bias: boolean): LinearWeights => [
        reader.matrix(`layers.${l}.${name}.weight`, rows, columns),
        bias ? reader.row(`layers.${l}.${name}.bias`, rows) : null,
        "outIn",
      ];
      return {
        norm1: reader.row(`layers.${l}.input_layernorm.weight`, d),
        qkv: [
          reader.stacked(parts.map(([name, rows]) => [`${name}.weight`, rows]), d),
          attention_bias ? reader.joined(parts.map(([name, rows]) => [`${name}.bias`, rows])) : null,
          "outIn",
        ],
        projection: linear("self_attn.o_proj", d, d, attention_bias),
        norm2: reader.row(`layers.${l}.post_attention_layernorm.weight`, d),
        gate: linear("mlp.gate_proj", f, d, mlp_bias),
        up: linear("mlp.up_proj", f, d, mlp_bias),
        down: linear("mlp.down_proj", d, f, mlp_bias),
      };
    });
    reader.refuseOtherLayerWeights();
  }

  /** Shape of the layers. */
  get shape(): BaseShape {
    return llamaShape(this.config);
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return this.layers.flatMap(({ norm1, qkv, projection, norm2, gate, up, down }) => [
      norm1,
      ...[qkv, projection].flatMap(present),
      norm2,
      ...[gate, up, down].flatMap(present),
    ]);
  }

  /** See `BaseLayers.forward`. */
  async forward(
    tape: Tape,
    embedding: Variable,
    shape: SequenceShape,
    heads: LayerHeads | null,
  ): Promise<Variable> {
    const { num_attention_heads, num_key_value_heads: kvHeads, rms_norm_eps: epsilon } = this.config;
    const attentionShape = { ...shape, heads: num_attention_heads, kvHeads };
    const first = shape.cache?.first ?? 0;
    const turned = {
      table: this.#ropeTable(first + shape.length),
      heads: num_attention_heads + kvHeads,
      length: shape.length,
      first,
    };
    let h = embedding;
    for (const [l, layer] of this.layers.entries()) {
      const x = rmsNormOp(tape, h, layer.norm1, epsilon);
      const qkv = await loraLinearOp(tape, x, layer.qkv, l, heads);
      ropeOp(tape, qkv, turned);
      const mixed = shape.cache?.attend(tape, qkv, l) ?? attentionOp(tape, qkv, attentionShape);
      h = linearOp(tape, mixed, layer.projection, h);
      const x2 = rmsNormOp(tape, h, layer.norm2, epsilon);
      h = gatedFeedForwardOp(tape, x2, layer, h);
    }
    return h;
  }

  /** Frees the weights. */
  [Symbol.dispose](): void {
    disposeAll(this.parameters());
    for (const table of this.#tables.splice(0)) table.dispose();
  }

  /** Cosines and sines of at least so many positions; the model's longest would often be a waste. */
  #ropeTable(positions: number): Tensor {
    let table = this.#tables.at(-1);
    if (table === undefined || table.rows < positions) {
      const rows = 2 ** Math.ceil(Math.log2(Math.max(64, positions)));
      table = ropeTable(this.#engine, ropeFrequencies(this.config), rows);
      this.#tables.push(table);
    }
    return table;
  }
}

function present([weight, bias]: LinearWeights): MatrixParameter[] {
  return bias === null ? [weight] : [weight, bias];
}

/** Embedding, final norm and LM head of a LLaMA: what a data device holds. */
export class LlamaEmbeddingAndHead implements EmbeddingAndHead {
  /** Shape of the model. */
  readonly config: LlamaConfig;
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
   * @param config Shape of the model.
   * @param weights The checkpoint.
   * @param baseWeights How token embedding and LM head are held. @default {"f32"}
   * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format.
   */
  constructor(engine: Engine, config: LlamaConfig, weights: NamedArrays, baseWeights: BaseWeights = "f32") {
    this.config = config;
    const { vocab_size: vocabulary, hidden_size: d } = config;
    const reader = new WeightReader(engine, weights, PREFIXES, baseWeights);
    this.tokens = reader.matrix("embed_tokens.weight", vocabulary, d);
    this.norm = reader.row("norm.weight", d);
    this.lmHead = config.tie_word_embeddings ? this.tokens : reader.matrix("lm_head.weight", vocabulary, d);
  }

  /** Shape of the ends. */
  get shape(): EmbeddingAndHeadShape {
    const { hidden_size: hidden, vocab_size: vocabulary, max_position_embeddings: positions } = this.config;
    return { hidden, vocabulary, positions };
  }

  /** All weights, in order. */
  parameters(): MatrixParameter[] {
    return [...new Set([this.tokens, this.norm, this.lmHead])];
  }

  /** The token embedding; positions come in with the attention. */
  embed(tokens: Uint32Array, _positions: Uint32Array): Tensor {
    return embeddingGather(this.tokens.value, tokens);
  }

  /** RMS norm. */
  normalise(hidden: Tensor): Normalised {
    const gamma = this.norm.value;
    const { y, statistics } = rmsNorm(hidden, gamma, this.config.rms_norm_eps);
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

/** y = (silu(x Wg + bg) * (x Wu + bu)) Wd + bd + residual, with frozen weights. */
export function gatedFeedForwardOp(
  tape: Tape,
  x: Variable,
  { gate, up, down }: Pick<LlamaLayer, "gate" | "up" | "down">,
  residual: Variable,
): Variable {
  const apply = (x: Tensor, [weight, bias]: LinearWeights, residual?: Tensor) =>
    matmul(x, weight.value, { transposeB: true, bias: bias?.value, residual });
  const gateValue = tape.own(apply(x.value, gate));
  const upValue = tape.own(apply(x.value, up));
  using inner = gated(gateValue, upValue);
  const out = tape.variable(
    apply(inner, down, residual.value),
    x.needsGradient || residual.needsGradient,
  );
  if (out.needsGradient) {
    tape.record(() => {
      const dy = out.takeGradient();
      if (x.needsGradient) {
        using dInner = matmul(dy, down[0].value);
        const { dGate, dUp } = gatedBackward({ gate: gateValue, up: upValue }, dInner);
        addInputGradient(x, dGate, gate);
        addInputGradient(x, dUp, up);
        dGate.dispose();
        dUp.dispose();
      }
      if (residual.needsGradient) residual.addGradient(dy);
      else dy.dispose();
    });
  }
  return out;
}

function llamaBytes(config: LlamaConfig, format: BaseWeights) {
  const { hidden_size: d, intermediate_size: f, vocab_size, attention_bias, mlp_bias } = config;
  const { kvHeads, headSize } = llamaShape(config);
  const qkv = d + 2 * kvHeads * headSize;
  const layer = new WeightSum(format, "columns").matrix(qkv, d).matrix(d, d).matrix(f, d).matrix(f, d).matrix(
    d,
    f,
  )
    .plain(1, d, 2);
  if (attention_bias) layer.plain(1, qkv).plain(1, d);
  if (mlp_bias) layer.plain(1, f, 2).plain(1, d);
  const ends = new WeightSum(format, "columns").matrix(vocab_size, d).plain(1, d);
  if (!config.tie_word_embeddings) ends.matrix(vocab_size, d);
  return { layers: config.num_hidden_layers * layer.bytes, ends: ends.bytes };
}

const GGUF_NAMES: GgufNames = {
  layer: {
    attn_norm: "input_layernorm",
    ffn_norm: "post_attention_layernorm",
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
  },
  prefix: "model.layers.",
  ends: {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
  },
};

function readGguf(fields: GgufFields): GgufReading<LlamaConfig> {
  const { file } = fields;
  const scaling = fields.get("rope.scaling.type");
  if (scaling !== undefined && scaling !== "none" && scaling !== "linear") {
    fields.refuse('llama.rope.scaling.type must be "none" or "linear"', scaling);
  }
  if (file.tensors.has("rope_freqs.weight")) {
    fields.refuse("positions must not be stretched by a tensor", "rope_freqs.weight");
  }
  const experts = fields.get("expert_count");
  if (experts !== undefined && experts !== 0) fields.refuse("llama.expert_count must be 0", experts);
  const hidden = fields.count("embedding_length");
  const heads = fields.count("attention.head_count");
  const kvHeads = fields.count("attention.head_count_kv", heads);
  const turned = fields.count("rope.dimension_count", hidden / heads);
  if (turned !== hidden / heads) {
    fields.refuse(`llama.rope.dimension_count must be ${hidden / heads}`, turned);
  }
  for (const which of ["attention.key_length", "attention.value_length"]) {
    const size = fields.count(which, hidden / heads);
    if (size !== hidden / heads) fields.refuse(`llama.${which} must be ${hidden / heads}`, size);
  }
  const names = fields.names(GGUF_NAMES, "LLaMA");
  const config = llamaConfig({
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: hidden,
    num_hidden_layers: fields.count("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    intermediate_size: fields.count("feed_forward_length"),
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    max_position_embeddings: fields.count("context_length"),
    rms_norm_eps: rounded(fields.get("attention.layer_norm_rms_epsilon")),
    rope_theta: rounded(fields.get("rope.freq_base") ?? 10_000),
    ...(scaling === "linear"
      ? { rope_scaling: { rope_type: "linear", factor: rounded(fields.get("rope.scaling.factor")) } }
      : {}),
    attention_bias: names.has("model.layers.0.self_attn.q_proj.bias"),
    tie_word_embeddings: !names.has("lm_head.weight"),
  });
  const [q, k] = [unpermuted(heads), unpermuted(kvHeads)];
  return {
    config,
    names,
    change: (ours) => {
      const which = /self_attn\.([qk])_proj/.exec(ours)?.[1];
      return which === undefined ? null : which === "q" ? q : k;
    },
  };
}

/** All that is known of LLaMA. */
export const llamaFamily: Family<LlamaConfig> = {
  name: "llama",
  title: "LLaMA",
  architectures: ["LlamaForCausalLM"],
  config: llamaConfig,
  shape: llamaShape,
  layers: (...args) => new LlamaLayers(...args),
  ends: (...args) => new LlamaEmbeddingAndHead(...args),
  bytes: llamaBytes,
  prefixes: PREFIXES,
  storesInOut: false,
  projections: (shape, layer) => separateProjections(`layers.${layer}`, shape),
  outputProjection: (layer) => `layers.${layer}.self_attn.o_proj`,
  peftTargets: (targets) => targets.map((target) => `${target}_proj`),
  gguf: { architecture: "llama", read: readGguf },
};
