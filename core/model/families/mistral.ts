/**
 * Mistral: as LLaMA, with a sliding window in all layers. Without one it is a LLaMA, and its GGUF files say so.
 *
 * @module
 */

import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { decoderOf, type DecoderSizes, decoderSizes } from "./decoder_config.ts";
import { DECODER_NAMES, decoderHeader, permutedHeads, refuseWindows } from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import type { LlamaConfig } from "./llama.ts";
import { type RopeConfig, ropeOf } from "./rope.ts";
import { type WindowConfig, windowsOf } from "./windows.ts";

/** Shape of a Mistral model, named as in its `config.json`. */
export interface MistralConfig extends DecoderSizes, RopeConfig, WindowConfig {
  /** The family. */
  readonly model_type: "mistral";
}

/**
 * Checks a `config.json` and takes what Mistral needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function mistralConfig(json: unknown): MistralConfig {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  const sizes = decoderSizes(fields, { kvHeads: 8, positions: 131_072 });
  // The family's own default, where a file does not say it.
  const window = fields.nullable("sliding_window", 4096);
  const kinds = Array.from(
    { length: sizes.num_hidden_layers },
    () => window === undefined ? "full_attention" as const : "sliding_attention" as const,
  );
  // A kind for each layer is another family's.
  fields.only("layer_types", []);
  return {
    model_type: "mistral",
    ...sizes,
    ...ropeOf(fields),
    ...windowsOf(kinds, window, sizes.max_position_embeddings),
  };
}

function mistralDecoder(config: MistralConfig): Decoder {
  return decoderOf(config, { biases: { qkv: false, output: false, feedForward: false } });
}

/** All that is known of Mistral. */
export const mistralFamily: Family<MistralConfig> = {
  name: "mistral",
  title: "Mistral",
  architectures: ["MistralForCausalLM"],
  config: mistralConfig,
  ...decoderParts(mistralDecoder),
  // llama.cpp's architecture for it is LLaMA's, and so are files that are read.
  gguf: {
    architecture: "llama",
    permutesHeads: true,
    read: (fields) => fields.refuse("it must be a LLaMA", fields.architecture),
    names: DECODER_NAMES,
    change: ({ num_attention_heads, num_key_value_heads }) =>
      permutedHeads(num_attention_heads, num_key_value_heads),
    header: (config) => {
      refuseWindows("Mistral", config);
      return { fields: decoderHeader({ sizes: config, rope: config, title: "Mistral" }) };
    },
  },
};

/** The same model as a LLaMA; `null` if it has a window. */
export function asLlama(config: MistralConfig): LlamaConfig | null {
  const { sliding_window, layer_types: _, ...others } = config;
  return sliding_window === undefined
    ? { ...others, model_type: "llama", attention_bias: false, mlp_bias: false }
    : null;
}
