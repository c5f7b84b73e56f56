/**
 * LLaMA and what shares its architecture and `model_type` (LLaMA 2 and 3, TinyLlama, SmolLM2).
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import type { BaseShape } from "../base.ts";
import { ConfigFields } from "../weights.ts";
import { type Decoder, decoderParts } from "./decoder.ts";
import { decoderOf, decoderShape, type DecoderSizes, decoderSizes } from "./decoder_config.ts";
import { DECODER_NAMES, decoderFields, decoderHeader, permutedHeads } from "./decoder_gguf.ts";
import type { Family } from "./family.ts";
import type { GgufFields, GgufHeader, GgufReading } from "./gguf.ts";
import { factorsOf, type RopeConfig, ropeOf, type RopeScaling, scalingByFactors } from "./rope.ts";

/** Shape of a LLaMA model, named as in its `config.json`. */
export interface LlamaConfig extends DecoderSizes, RopeConfig {
  /** The family. */
  readonly model_type: "llama";
  /** Q, K, V and output projection have biases. */
  readonly attention_bias: boolean;
  /** The feed-forward network has biases. */
  readonly mlp_bias: boolean;
}

/**
 * Checks a `config.json` and takes what LLaMA needs.
 *
 * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
 */
export function llamaConfig(json: unknown): LlamaConfig {
  const fields = new ConfigFields(json);
  fields.only("hidden_act", ["silu"]);
  const sizes = decoderSizes(fields, { positions: 2048 });
  const window = fields.get("sliding_window");
  const { max_position_embeddings: positions } = sizes;
  if (window !== undefined && fields.get("use_sliding_window") !== false && !(Number(window) >= positions)) {
    throw new ModelFileError(
      `Cannot load the model as sliding_window must be at least max_position_embeddings (every token sees all before it): current value is ${
        showValue(window)
      }`,
    );
  }
  const kinds = fields.get("layer_types");
  if (kinds !== undefined && !(Array.isArray(kinds) && kinds.every((kind) => kind === "full_attention"))) {
    throw new ModelFileError(
      `Cannot load the model as layer_types must be "full_attention" throughout: current value is ${
        showValue(kinds)
      }`,
    );
  }
  return {
    model_type: "llama",
    ...sizes,
    attention_bias: fields.boolean("attention_bias") ?? false,
    mlp_bias: fields.boolean("mlp_bias") ?? false,
    ...ropeOf(fields),
  };
}

/** Shape of the layers of a LLaMA. */
export function llamaShape(config: LlamaConfig): BaseShape {
  return decoderShape(config);
}

function llamaDecoder(config: LlamaConfig): Decoder {
  const { attention_bias, mlp_bias } = config;
  const biases = { qkv: attention_bias, output: attention_bias, feedForward: mlp_bias };
  return decoderOf(config, { biases });
}

/** How files of LLaMA 3.1 and later say that positions are stretched. */
const FACTORS = "rope_freqs.weight";

function factorsIn(fields: GgufFields, config: LlamaConfig): RopeScaling {
  const { headSize } = llamaShape(config);
  if (config.rope_scaling.rope_type !== "default") {
    fields.refuse(`positions must be stretched once where there is "${FACTORS}"`, config.rope_scaling);
  }
  const factors = [...fields.file.read(FACTORS).data];
  if (factors.length !== headSize / 2 || !factors.every((factor) => factor > 0 && Number.isFinite(factor))) {
    fields.refuse(`"${FACTORS}" must be ${headSize / 2} positive numbers`, factors);
  }
  return scalingByFactors(factors, config.rope_theta);
}

function readGguf(fields: GgufFields): GgufReading<LlamaConfig> {
  const config = llamaConfig({
    ...decoderFields(fields),
    attention_bias: fields.file.tensors.has("blk.0.attn_q.bias"),
    mlp_bias: fields.file.tensors.has("blk.0.ffn_up.bias"),
    sliding_window: fields.get("attention.sliding_window"),
  });
  const names = new Map(
    fields.names({ ...DECODER_NAMES, ends: { ...DECODER_NAMES.ends, [FACTORS]: FACTORS } }, "LLaMA"),
  );
  const change = changesOf(config);
  if (!names.delete(FACTORS)) return { config, names, change };
  return { config: { ...config, rope_scaling: factorsIn(fields, config) }, names, change };
}

function changesOf(config: LlamaConfig) {
  return permutedHeads(config.num_attention_heads, config.num_key_value_heads);
}

/** `llama3` is written as what each angle is divided by, as llama.cpp's converter does. */
function headerOf(config: LlamaConfig): GgufHeader {
  const { rope_theta, rope_scaling } = config;
  const stretched = rope_scaling.rope_type === "llama3" || rope_scaling.rope_type === "factors";
  const rope = stretched ? { rope_theta, rope_scaling: { rope_type: "default" } as const } : config;
  const fields = decoderHeader({ sizes: config, rope, title: "LLaMA" });
  if (!stretched) return { fields };
  const data = Float32Array.from(factorsOf(config, llamaShape(config).headSize));
  return { fields, tensors: new Map([[FACTORS, { shape: [data.length], data }]]) };
}

/** All that is known of LLaMA. */
export const llamaFamily: Family<LlamaConfig> = {
  name: "llama",
  title: "LLaMA",
  architectures: ["LlamaForCausalLM"],
  config: llamaConfig,
  ...decoderParts(llamaDecoder),
  gguf: {
    architecture: "llama",
    permutesHeads: true,
    read: readGguf,
    names: DECODER_NAMES,
    change: changesOf,
    header: headerOf,
  },
};
