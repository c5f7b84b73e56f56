/**
 * Qwen3: as LLaMA, with a norm of each head's queries and keys, and heads of a size of their own.
 *
 * @module
 */

import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { decoderOf, type DecoderSizes, decoderSizes } from "./decoder_config.ts";
import {
  DECODER_NAMES,
  decoderFields,
  decoderHeader,
  HEAD_NORM_NAMES,
  refuseBiases,
  refuseWindows,
} from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import type { GgufFields, GgufHeader, GgufNames, GgufReading } from "./gguf.ts";
import { type RopeConfig, ropeOf } from "./rope.ts";
import { type WindowConfig, windowsFrom } from "./windows.ts";

/** Shape of a Qwen3 model, named as in its `config.json`. */
export interface Qwen3Config extends DecoderSizes, RopeConfig, WindowConfig {
  /** The family. */
  readonly model_type: "qwen3";
  /** Q, K, V and output projection have biases. */
  readonly attention_bias: boolean;
}

/**
 * Checks a `config.json` and takes what Qwen3 needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function qwen3Config(json: unknown): Qwen3Config {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  const sizes = decoderSizes(fields, { headSize: 128, kvHeads: 32, positions: 32_768 });
  return {
    model_type: "qwen3",
    ...sizes,
    attention_bias: fields.boolean("attention_bias") ?? false,
    ...ropeOf(fields),
    ...windowsFrom(fields, sizes),
  };
}

function qwen3Decoder(config: Qwen3Config): Decoder {
  const biases = { qkv: config.attention_bias, output: config.attention_bias, feedForward: false };
  return decoderOf(config, { biases, headNorms: true });
}

function readGguf(fields: GgufFields): GgufReading<Qwen3Config> {
  const config = qwen3Config({
    ...decoderFields(fields),
    attention_bias: fields.file.tensors.has("blk.0.attn_q.bias"),
  });
  return { config, names: fields.names(GGUF_NAMES, "Qwen3"), change: () => null };
}

const GGUF_NAMES: GgufNames = { ...DECODER_NAMES, layer: { ...DECODER_NAMES.layer, ...HEAD_NORM_NAMES } };

function headerOf(config: Qwen3Config): GgufHeader {
  refuseWindows("Qwen3", config);
  refuseBiases("Qwen3", { attention_bias: config.attention_bias });
  return { fields: decoderHeader({ sizes: config, rope: config, title: "Qwen3" }) };
}

/** All that is known of Qwen3. */
export const qwen3Family: Family<Qwen3Config> = {
  name: "qwen3",
  title: "Qwen3",
  architectures: ["Qwen3ForCausalLM"],
  config: qwen3Config,
  ...decoderParts(qwen3Decoder),
  gguf: {
    architecture: "qwen3",
    permutesHeads: false,
    read: readGguf,
    names: GGUF_NAMES,
    change: () => () => null,
    header: headerOf,
  },
};
