/**
 * Shape of LLaMA models, as their files say it.
 *
 * H heads, G heads of keys and values, D head size, d = H * D hidden size, F feed-forward size, V vocabulary.
 *
 * @module
 */

import { CheckpointError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import type { BaseShape } from "../base.ts";
import { checkHeads, ConfigFields, refuseQuantised } from "../weights.ts";

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
