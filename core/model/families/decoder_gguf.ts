/**
 * What GGUF files of decoders have in common.
 *
 * D head size.
 *
 * @module
 */

import type { GgufField } from "../../files/gguf_writer.ts";
import { decoderShape, type DecoderSizes } from "./decoder_config.ts";
import type { GgufChange, GgufFields, GgufNames } from "./gguf.ts";
import { notInLlamaCpp, rounded, unpermuted } from "./gguf.ts";
import type { RopeConfig } from "./rope.ts";
import type { WindowConfig } from "./windows.ts";

/** Tensors that most decoders have. */
export const DECODER_NAMES: GgufNames = {
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

/** Norms of each head's queries and keys. */
export const HEAD_NORM_NAMES: GgufNames["layer"] = {
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
};

/**
 * Fields of a file as those of a `config.json`.
 *
 * @throws {ModelFileError} If the file asks for what is not done here.
 */
export function decoderFields(fields: GgufFields) {
  const { file, architecture } = fields;
  const experts = fields.get("expert_count");
  if (experts !== undefined && experts !== 0) {
    fields.refuse(`${architecture}.expert_count must be 0`, experts);
  }
  const hidden = fields.count("embedding_length");
  const heads = fields.count("attention.head_count");
  const headSize = fields.count("attention.key_length", hidden / heads);
  const others = { "attention.value_length": hidden / heads, "rope.dimension_count": headSize };
  for (const [which, otherwise] of Object.entries(others)) {
    const size = fields.count(which, otherwise);
    if (size !== headSize) fields.refuse(`${architecture}.${which} must be ${headSize}`, size);
  }
  return {
    hidden_act: "silu",
    hidden_size: hidden,
    num_hidden_layers: fields.count("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: fields.count("attention.head_count_kv", heads),
    head_dim: headSize,
    intermediate_size: fields.count("feed_forward_length"),
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    max_position_embeddings: fields.count("context_length"),
    rms_norm_eps: rounded(fields.get("attention.layer_norm_rms_epsilon")),
    rope_theta: rounded(fields.get("rope.freq_base") ?? 10_000),
    ...scalingOf(fields),
    tie_word_embeddings: !file.tensors.has("output.weight"),
  };
}

/** How the angles are stretched: files of today say a type and a factor, older ones a factor alone. */
function scalingOf(fields: GgufFields): { readonly rope_scaling?: Readonly<Record<string, unknown>> } {
  const { architecture } = fields;
  const older = fields.get("rope.scale_linear");
  const factor = fields.get("rope.scaling.factor") ?? older;
  if (older !== undefined && older !== factor) {
    fields.refuse(`${architecture}.rope.scale_linear must be rope.scaling.factor`, older);
  }
  const type = fields.get("rope.scaling.type") ?? (factor === undefined ? "none" : "linear");
  if (type === "none") return {};
  if (type !== "linear") fields.refuse(`${architecture}.rope.scaling.type must be "none" or "linear"`, type);
  return { rope_scaling: { rope_type: "linear", factor: rounded(factor) } };
}

const u32 = (value: number): GgufField => ({ type: "u32", value });
const f32 = (value: number): GgufField => ({ type: "f32", value });

/** A decoder whose file is written. */
export interface WrittenDecoder {
  /** Sizes of the model. */
  readonly sizes: DecoderSizes;
  /** Its rotary positions; those of layers that see all. */
  readonly rope: RopeConfig;
  /** Name of the family for people. */
  readonly title: string;
}

/**
 * The fields of a decoder's file, the way back from `decoderFields`.
 *
 * @throws {ModelFileError} If llama.cpp does not know how positions are stretched.
 */
export function decoderHeader({ sizes, rope, title }: WrittenDecoder): Record<string, GgufField> {
  const { headSize } = decoderShape(sizes);
  const { rope_scaling: scaling, rope_theta } = rope;
  if (scaling.rope_type !== "default" && scaling.rope_type !== "linear") {
    throw notInLlamaCpp(title, 'rope_type must be "default" or "linear"', scaling.rope_type);
  }
  return {
    "block_count": u32(sizes.num_hidden_layers),
    "context_length": u32(sizes.max_position_embeddings),
    "embedding_length": u32(sizes.hidden_size),
    "feed_forward_length": u32(sizes.intermediate_size),
    "attention.head_count": u32(sizes.num_attention_heads),
    "attention.head_count_kv": u32(sizes.num_key_value_heads),
    "attention.key_length": u32(headSize),
    "attention.value_length": u32(headSize),
    "attention.layer_norm_rms_epsilon": f32(sizes.rms_norm_eps),
    "rope.dimension_count": u32(headSize),
    "rope.freq_base": f32(rope_theta),
    "vocab_size": u32(sizes.vocab_size),
    ...(scaling.rope_type === "default" ? {} : {
      "rope.scaling.type": { type: "string", value: "linear" } as const,
      "rope.scaling.factor": f32(scaling.factor),
    }),
  };
}

/** @throws {ModelFileError} If a layer sees a part of the text alone, which llama.cpp does not know of this family. */
export function refuseWindows(title: string, { sliding_window }: WindowConfig): void {
  if (sliding_window === undefined) return;
  throw notInLlamaCpp(title, "sliding_window must be as long as the longest text", sliding_window);
}

/** @throws {ModelFileError} If a bias is there that llama.cpp does not know of this family. */
export function refuseBiases(title: string, flags: Readonly<Record<string, boolean>>): void {
  for (const [name, value] of Object.entries(flags)) {
    if (value) throw notInLlamaCpp(title, `${name} must be false`, value);
  }
}

/** Q and K of a file whose rows are in the order in which llama.cpp turns them. */
export function permutedHeads(heads: number, kvHeads: number): (ours: string) => GgufChange | null {
  const [q, k] = [unpermuted(heads), unpermuted(kvHeads)];
  return (ours) => {
    const which = /self_attn\.([qk])_proj/.exec(ours)?.[1];
    return which === undefined ? null : which === "q" ? q : k;
  };
}
