/**
 * What the configurations of decoders say, whatever their family, and what of it is obeyed or refused.
 *
 * H heads, G heads of keys and values, D head size, d hidden size, F feed-forward size, V vocabulary.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import type { BaseShape } from "../base.ts";
import { checkHeads, type ConfigFields, refuseForeign } from "../weights.ts";
import type { Decoder } from "./decoder.ts";
import type { RopeConfig } from "./rope.ts";
import type { WindowConfig } from "./windows.ts";

/** Most layers: far more than models have. */
const MAX_LAYERS = 10_000;

/** Sizes of a decoder, named as in its `config.json`. */
export interface DecoderSizes {
  /** L, layers. */
  readonly num_hidden_layers: number;
  /** H, attention heads. */
  readonly num_attention_heads: number;
  /** G, heads of keys and values. */
  readonly num_key_value_heads: number;
  /** D, head size, where it is not `hidden_size / num_attention_heads`. */
  readonly head_dim?: number;
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
  /** The LM head is the token embedding. */
  readonly tie_word_embeddings: boolean;
}

/** What is taken where a configuration does not say it; without a value it must. */
export interface DecoderDefaults {
  /** D, head size. @default {hidden_size / num_attention_heads} */
  readonly headSize?: number;
  /** G, heads of keys and values. */
  readonly kvHeads?: number;
  /** Longest sequence. */
  readonly positions?: number;
  /** @default {false} */
  readonly tied?: boolean;
}

/**
 * Reads the sizes of a decoder, and refuses what no family here has.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function decoderSizes(fields: ConfigFields, defaults: DecoderDefaults = {}): DecoderSizes {
  refuseForeign(fields);
  fields.only("partial_rotary_factor", [1], "all columns of a head are turned");
  fields.only("rope_interleaved", [false], "column i goes with column i + D / 2");
  for (const name of ["num_local_experts", "num_experts", "n_routed_experts"]) {
    fields.only(name, [1], "mixtures of experts are not done");
  }
  const heads = fields.integer("num_attention_heads");
  const hidden = fields.integer("hidden_size");
  // A head module of mode `slice` reads hidden / heads columns, whatever the head size.
  checkHeads(hidden, heads, fields.get("head_dim") === undefined && defaults.headSize === undefined ? 8 : 4);
  const headSize = fields.integer("head_dim", defaults.headSize ?? hidden / heads);
  if (headSize % 8 !== 0) {
    throw new ModelFileError(
      `Cannot load the model as its head size must be a multiple of 8: current value is ${headSize}`,
    );
  }
  // `null` means as many as heads in all families.
  const kvHeads = fields.nullable("num_key_value_heads", defaults.kvHeads ?? heads) ?? heads;
  if (heads % kvHeads !== 0) {
    throw new ModelFileError(
      `Cannot load the model as num_key_value_heads must divide num_attention_heads: they are ${kvHeads} and ${heads}`,
    );
  }
  const layers = fields.integer("num_hidden_layers");
  // Layers have settings of their own, which are listed before any weight shows how many there are.
  if (layers > MAX_LAYERS) {
    throw new ModelFileError(
      `Cannot load the model as num_hidden_layers must be at most ${MAX_LAYERS}: current value is ${layers}`,
    );
  }
  return {
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    ...(headSize === hidden / heads ? {} : { head_dim: headSize }),
    hidden_size: hidden,
    intermediate_size: fields.integer("intermediate_size"),
    vocab_size: fields.integer("vocab_size"),
    max_position_embeddings: fields.integer("max_position_embeddings", defaults.positions),
    rms_norm_eps: fields.positive("rms_norm_eps", 1e-6),
    tie_word_embeddings: fields.boolean("tie_word_embeddings") ?? defaults.tied ?? false,
  };
}

/** Shape of the layers of a decoder. */
export function decoderShape(sizes: DecoderSizes): BaseShape {
  const { num_attention_heads: heads, hidden_size: hidden } = sizes;
  return {
    layers: sizes.num_hidden_layers,
    heads,
    kvHeads: sizes.num_key_value_heads,
    hidden,
    headSize: sizes.head_dim ?? hidden / heads,
  };
}

/** The sizes of a decoder, as its layers take them. */
export function sizesOf(
  config: DecoderSizes,
): Pick<Decoder, "shape" | "inner" | "vocabulary" | "positions" | "epsilon" | "tied"> {
  return {
    shape: decoderShape(config),
    inner: config.intermediate_size,
    vocabulary: config.vocab_size,
    positions: config.max_position_embeddings,
    epsilon: config.rms_norm_eps,
    tied: config.tie_word_embeddings,
  };
}

/**
 * A decoder from what its configuration says.
 *
 * @param config Sizes, rotary positions, and windows if there are any.
 * @param more Where the family differs.
 */
export function decoderOf(
  config: DecoderSizes & RopeConfig & WindowConfig,
  more: Pick<Decoder, "biases"> & Partial<Decoder>,
): Decoder {
  const { rope_theta, rope_scaling, sliding_window, layer_types } = config;
  const rope = { rope_theta, rope_scaling };
  return {
    ...sizesOf(config),
    activation: "silu",
    headNorms: false,
    outputNorms: false,
    gainOffset: 0,
    embeddingScale: 1,
    attention: Array.from({ length: config.num_hidden_layers }, (_, l) => ({
      rope,
      window: layer_types?.[l] === "sliding_attention" ? sliding_window : undefined,
    })),
    ...more,
  };
}
