/**
 * LLaMA and what shares its architecture and `model_type` (LLaMA 2 and 3, TinyLlama, SmolLM2): RMS
 * norm, rotary positions, grouped-query attention, a gated feed-forward network. The base is frozen.
 *
 * B batch, T tokens of a sequence, H heads, G heads of keys and values, D head size, d = H * D hidden
 * size, F feed-forward size, V vocabulary. Weights are stored [out, in].
 *
 * @module
 */

import {
  type BaseWeights,
  checkHeads,
  ConfigFields,
  disposeAll,
  refuseQuantised,
  WeightReader,
} from "../weights.ts";
import { CheckpointError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import type { BaseLayers, BaseShape, EndsShape, ModelEnds, Normalised, SequenceShape } from "../base.ts";
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

/** How the angles of rotary positions were stretched for longer sequences. */
export type RopeScaling =
  | { readonly rope_type: "default" }
  | { readonly rope_type: "linear"; readonly factor: number }
  | {
    readonly rope_type: "llama3";
    readonly factor: number;
    readonly low_freq_factor: number;
    readonly high_freq_factor: number;
    readonly original_max_position_embeddings: number;
  };

/** Shape of a LLaMA model, named as in its `config.json`. */
export interface LlamaConfig {
  /** The family. */
  readonly model_type: "llama";
  /** L, layers. */
  readonly num_hidden_layers: number;
  /** H, attention heads. */
  readonly num_attention_heads: number;
  /** G, heads of keys and values. */
  readonly num_key_value_heads: number;
  /** d, hidden size. */
  readonly hidden_size: number;
  /** F, feed-forward size. */
  readonly intermediate_size: number;
  /** V, vocabulary entries. */
  readonly vocab_size: number;
  /** Longest sequence. */
  readonly max_position_embeddings: number;
  /** Added to mean squares. */
  readonly rms_norm_eps: number;
  /** Q, K, V and output projection have biases. */
  readonly attention_bias: boolean;
  /** The feed-forward network has biases. */
  readonly mlp_bias: boolean;
  /** The LM head is the token embedding. */
  readonly tie_word_embeddings: boolean;
  /** Base of the angles. */
  readonly rope_theta: number;
  /** How they are stretched. */
  readonly rope_scaling: RopeScaling;
}

/** `rope_theta` and `rope_scaling`, where older and newer files have them. */
function ropeOf(fields: ConfigFields): Pick<LlamaConfig, "rope_theta" | "rope_scaling"> {
  const name = fields.get("rope_parameters") !== undefined ? "rope_parameters" : "rope_scaling";
  const scaling = fields.object(name);
  // Else the defaults would be taken, as all else is one level down.
  for (const kind of ["full_attention", "sliding_attention"]) {
    scaling.only(kind, [], "all layers turn by the same angles");
  }
  const theta = scaling.positive("rope_theta", fields.positive("rope_theta", 10_000));
  scaling.only("partial_rotary_factor", [1], "all columns of a head are turned");
  const type = scaling.get("rope_type") ?? scaling.get("type") ?? "default";
  if (type === "default") return { rope_theta: theta, rope_scaling: { rope_type: type } };
  const factor = scaling.positive("factor");
  if (type === "linear") return { rope_theta: theta, rope_scaling: { rope_type: type, factor } };
  if (type === "llama3") {
    const low = scaling.positive("low_freq_factor");
    const high = scaling.positive("high_freq_factor");
    if (!(low < high)) {
      throw new CheckpointError(
        `Cannot load the model as ${name}.low_freq_factor must be below high_freq_factor: they are ${low} and ${high}`,
      );
    }
    return {
      rope_theta: theta,
      rope_scaling: {
        rope_type: type,
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: scaling.integer("original_max_position_embeddings"),
      },
    };
  }
  throw new CheckpointError(
    `Cannot load the model as ${name}.rope_type must be "default", "linear" or "llama3": current value is ${
      showValue(type)
    }`,
  );
}

/**
 * Checks a `config.json` and takes what LLaMA needs.
 *
 * @throws {CheckpointError} If a field is missing or out of range, or asks for what is not done here.
 */
export function llamaConfig(json: unknown): LlamaConfig {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  fields.only("partial_rotary_factor", [1], "all columns of a head are turned");
  fields.only("rope_interleaved", [false], "column i goes with column i + D / 2");
  refuseQuantised(fields);
  for (const name of ["num_local_experts", "num_experts", "n_routed_experts"]) {
    fields.only(name, [1], "mixtures of experts are not done");
  }
  const heads = fields.integer("num_attention_heads");
  const hidden = fields.integer("hidden_size");
  const positions = fields.integer("max_position_embeddings", 2048);
  checkHeads(hidden, heads, 8);
  fields.only(
    "head_dim",
    [hidden / heads],
    "hidden_size / num_attention_heads, as a head module reads as many columns",
  );
  const kvHeads = fields.integer("num_key_value_heads", heads);
  if (heads % kvHeads !== 0) {
    throw new CheckpointError(
      `Cannot load the model as num_key_value_heads must divide num_attention_heads: they are ${kvHeads} and ${heads}`,
    );
  }
  const window = fields.get("sliding_window");
  if (window !== undefined && fields.get("use_sliding_window") !== false && !(Number(window) >= positions)) {
    throw new CheckpointError(
      `Cannot load the model as sliding_window must be at least max_position_embeddings (every token sees all before it): current value is ${
        showValue(window)
      }`,
    );
  }
  const kinds = fields.get("layer_types");
  if (kinds !== undefined && !(Array.isArray(kinds) && kinds.every((kind) => kind === "full_attention"))) {
    throw new CheckpointError(
      `Cannot load the model as layer_types must be "full_attention" throughout: current value is ${
        showValue(kinds)
      }`,
    );
  }
  return {
    model_type: "llama",
    num_hidden_layers: fields.integer("num_hidden_layers"),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    hidden_size: hidden,
    intermediate_size: fields.integer("intermediate_size"),
    vocab_size: fields.integer("vocab_size"),
    max_position_embeddings: positions,
    rms_norm_eps: fields.positive("rms_norm_eps", 1e-6),
    attention_bias: fields.boolean("attention_bias", false),
    mlp_bias: fields.boolean("mlp_bias", false),
    tie_word_embeddings: fields.boolean("tie_word_embeddings", false),
    ...ropeOf(fields),
  };
}

/** Shape of the layers of a LLaMA. */
export function llamaShape(config: LlamaConfig): BaseShape {
  const { num_attention_heads: heads, hidden_size: hidden } = config;
  return {
    layers: config.num_hidden_layers,
    heads,
    kvHeads: config.num_key_value_heads,
    hidden,
    headSize: hidden / heads,
  };
}

/**
 * Angle per position of each pair of columns, [D / 2]: theta^(-2 i / D), stretched as the scaling says.
 * `linear` divides all (Chen et al., 2023); `llama3` divides those of wavelengths above
 * original / low_freq_factor, keeps those below original / high_freq_factor, and goes smoothly between.
 */
export function ropeFrequencies(config: LlamaConfig): Float64Array {
  const { rope_theta: theta, rope_scaling: scaling, hidden_size, num_attention_heads } = config;
  const headSize = hidden_size / num_attention_heads;
  return Float64Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = theta ** (-2 * i / headSize);
    if (scaling.rope_type === "default") return frequency;
    if (scaling.rope_type === "linear") return frequency / scaling.factor;
    const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
    // Turns within the original length: few if the wavelength is long.
    const turns = scaling.original_max_position_embeddings * frequency / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return frequency * (kept + (1 - kept) / factor);
  });
}

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
export class LlamaEnds implements ModelEnds {
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
  get shape(): EndsShape {
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
