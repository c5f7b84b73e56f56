/**
 * Qwen2 and Qwen2.5: as LLaMA, with biases on Q, K and V.
 *
 * @module
 */

import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { decoderOf, type DecoderSizes, decoderSizes } from "./decoder_config.ts";
import { DECODER_NAMES, decoderFields, decoderHeader, refuseWindows } from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import type { GgufFields, GgufHeader, GgufReading } from "./gguf.ts";
import { type RopeConfig, ropeOf } from "./rope.ts";
import { type WindowConfig, windowsFrom } from "./windows.ts";

/** Shape of a Qwen2 model, named as in its `config.json`. */
export interface Qwen2Config extends DecoderSizes, RopeConfig, WindowConfig {
  /** The family. */
  readonly model_type: "qwen2";
}

/**
 * Checks a `config.json` and takes what Qwen2 needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function qwen2Config(json: unknown): Qwen2Config {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  const sizes = decoderSizes(fields, { kvHeads: 32, positions: 32_768 });
  return { model_type: "qwen2", ...sizes, ...ropeOf(fields), ...windowsFrom(fields, sizes) };
}

function qwen2Decoder(config: Qwen2Config): Decoder {
  return decoderOf(config, { biases: { qkv: true, output: false, feedForward: false } });
}

function readGguf(fields: GgufFields): GgufReading<Qwen2Config> {
  const config = qwen2Config(decoderFields(fields));
  return { config, names: fields.names(DECODER_NAMES, "Qwen2"), change: () => null };
}

function headerOf(config: Qwen2Config): GgufHeader {
  refuseWindows("Qwen2", config);
  return { fields: decoderHeader({ sizes: config, rope: config, title: "Qwen2" }) };
}

/** All that is known of Qwen2. */
export const qwen2Family: Family<Qwen2Config> = {
  name: "qwen2",
  title: "Qwen2",
  architectures: ["Qwen2ForCausalLM"],
  config: qwen2Config,
  ...decoderParts(qwen2Decoder),
  gguf: {
    architecture: "qwen2",
    permutesHeads: false,
    read: readGguf,
    names: DECODER_NAMES,
    change: () => () => null,
    header: headerOf,
  },
};
