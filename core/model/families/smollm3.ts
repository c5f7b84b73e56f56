/**
 * SmolLM3: as LLaMA, with layers that have no rotary positions.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { decoderOf, type DecoderSizes, decoderSizes } from "./decoder_config.ts";
import {
  DECODER_NAMES,
  decoderFields,
  decoderHeader,
  permutedHeads,
  refuseBiases,
  refuseWindows,
} from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import { type GgufFields, type GgufHeader, type GgufReading, notInLlamaCpp } from "./gguf.ts";
import { type RopeConfig, ropeOf } from "./rope.ts";
import { layerKinds, type WindowConfig, windowsOf } from "./windows.ts";

/** Shape of a SmolLM3 model, named as in its `config.json`. */
export interface Smollm3Config extends DecoderSizes, RopeConfig, WindowConfig {
  /** The family. */
  readonly model_type: "smollm3";
  /** For each layer 1 if it has rotary positions, 0 if not. */
  readonly no_rope_layers: readonly number[];
  /** Q, K, V and output projection have biases. */
  readonly attention_bias: boolean;
  /** The feed-forward network has biases. */
  readonly mlp_bias: boolean;
}

function rotaryLayers(fields: ConfigFields, layers: number): readonly number[] {
  const interval = fields.integer("no_rope_layer_interval", 4);
  const list = fields.get("no_rope_layers") ??
    Array.from({ length: layers }, (_, l) => Number((l + 1) % interval !== 0));
  if (Array.isArray(list) && list.length >= layers && list.every((v) => v === 0 || v === 1)) {
    return list.slice(0, layers);
  }
  throw new ModelFileError(
    `Cannot load the model as no_rope_layers must be 0 or 1 for each of ${layers} layers: current value is ${
      showValue(list)
    }`,
  );
}

/**
 * Checks a `config.json` and takes what SmolLM3 needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function smollm3Config(json: unknown): Smollm3Config {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  const sizes = decoderSizes(fields, { kvHeads: 4, positions: 32_768, tied: true });
  const { num_hidden_layers: layers, max_position_embeddings: positions } = sizes;
  const rotary = rotaryLayers(fields, layers);
  const used = fields.boolean("use_sliding_window") ?? false;
  const window = used && fields.get("sliding_window") !== undefined
    ? fields.integer("sliding_window")
    : undefined;
  const kinds = layerKinds(
    fields,
    layers,
    (l) => window !== undefined && rotary[l] === 0 ? "sliding_attention" : "full_attention",
  );
  return {
    model_type: "smollm3",
    ...sizes,
    no_rope_layers: rotary,
    attention_bias: fields.boolean("attention_bias") ?? false,
    mlp_bias: fields.boolean("mlp_bias") ?? false,
    ...ropeOf(fields, 2_000_000),
    ...windowsOf(kinds, window, positions),
  };
}

function smollm3Decoder(config: Smollm3Config): Decoder {
  const { attention_bias, mlp_bias, no_rope_layers } = config;
  const biases = { qkv: attention_bias, output: attention_bias, feedForward: mlp_bias };
  const decoder = decoderOf(config, { biases });
  const attention = decoder.attention.map((layer, l) =>
    no_rope_layers[l] === 0 ? { ...layer, rope: null } : layer
  );
  return { ...decoder, attention };
}

function readGguf(fields: GgufFields): GgufReading<Smollm3Config> {
  const config = smollm3Config({
    ...decoderFields(fields),
    attention_bias: fields.file.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: fields.file.tensors.has("blk.0.ffn_up.bias"),
  });
  return { config, names: fields.names(DECODER_NAMES, "SmolLM3"), change: changesOf(config) };
}

function changesOf(config: Smollm3Config) {
  return permutedHeads(config.num_attention_heads, config.num_key_value_heads);
}

function headerOf(config: Smollm3Config): GgufHeader {
  const { no_rope_layers: rotary, attention_bias, mlp_bias } = config;
  refuseWindows("SmolLM3", config);
  refuseBiases("SmolLM3", { attention_bias, mlp_bias });
  if (rotary.some((turned, l) => turned !== Number((l + 1) % 4 !== 0))) {
    throw notInLlamaCpp("SmolLM3", "no_rope_layers must be 0 in each fourth layer alone", rotary);
  }
  return { fields: decoderHeader({ sizes: config, rope: config, title: "SmolLM3" }) };
}

/** All that is known of SmolLM3. */
export const smollm3Family: Family<Smollm3Config> = {
  name: "smollm3",
  title: "SmolLM3",
  architectures: ["SmolLM3ForCausalLM"],
  config: smollm3Config,
  ...decoderParts(smollm3Decoder),
  gguf: {
    architecture: "smollm3",
    permutesHeads: true,
    read: readGguf,
    names: DECODER_NAMES,
    change: changesOf,
    header: headerOf,
  },
};
