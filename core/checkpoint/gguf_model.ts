/**
 * LLaMA models in GGUF files, with the names and the order of rows that Hugging Face's files have.
 *
 * D head size.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";
import type { NamedArray } from "../model/gpt2.ts";
import { type LlamaConfig, llamaConfig } from "../model/llama.ts";
import { fingerprintOf } from "./fingerprint.ts";
import { GgufFile } from "./gguf.ts";
import { LazyArrays } from "./lazy_arrays.ts";
import type { ModelFolder } from "./model_folder.ts";

/** A model in a GGUF file: its weights are read, and dequantised, when they are asked for. */
export interface GgufModel extends ModelFolder {
  /** Shape of the model. */
  readonly config: LlamaConfig;
}

/** Their names of a layer's weights, and ours. */
const LAYER: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};
const ENDS: Readonly<Record<string, string>> = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
};

/** Our name of a tensor; `null` for what no layer reads. */
function nameOf(theirs: string): string | null {
  if (Object.hasOwn(ENDS, theirs)) return ENDS[theirs]!;
  const [, layer, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(theirs) ?? [];
  return part !== undefined && Object.hasOwn(LAYER, part)
    ? `model.layers.${layer}.${LAYER[part]}.${kind}`
    : null;
}

/**
 * Rows of a head from (pair, half), as llama.cpp rotates neighbouring columns, back to (half, pair): row
 * 2 i + j of a head was row j D / 2 + i.
 */
function unpermuted({ shape, data }: NamedArray, heads: number): NamedArray {
  const [rows, columns] = [shape[0]!, shape[1] ?? 1];
  const size = rows / heads;
  const out = new Float32Array(data.length);
  for (let head = 0; head < heads; head++) {
    for (let r = 0; r < size; r++) {
      const from = (head * size + r) * columns;
      const to = head * size + (r % 2) * (size / 2) + (r >> 1);
      out.set(data.subarray(from, from + columns), to * columns);
    }
  }
  return { shape, data: out };
}

/**
 * Reads a GGUF file of architecture `llama`; for `loadLayers` and `loadEnds`.
 *
 * @throws {CheckpointError} If the file is damaged, of another architecture, or asks for what is not done here.
 */
export async function loadGgufModel(path: string): Promise<GgufModel> {
  const file = await GgufFile.open(path);
  const refuse = (rule: string, value: unknown): never => {
    throw new CheckpointError(
      `Cannot load ${path} as ${rule}: current value is ${JSON.stringify(value) ?? "missing"}`,
    );
  };
  const { metadata } = file;
  const field = (name: string) => metadata[`llama.${name}`];
  const count = (name: string, other?: number): number => {
    const value = Number(field(name) ?? other);
    if (!Number.isInteger(value) || value < 1) {
      refuse(`llama.${name} must be a positive integer`, field(name));
    }
    return value;
  };
  const architecture = metadata["general.architecture"];
  if (architecture !== "llama") refuse('general.architecture must be "llama"', architecture);
  const scaling = field("rope.scaling.type");
  if (scaling !== undefined && scaling !== "none" && scaling !== "linear") {
    refuse('llama.rope.scaling.type must be "none" or "linear"', scaling);
  }
  if (file.tensors.has("rope_freqs.weight")) {
    refuse("positions must not be stretched by a tensor", "rope_freqs.weight");
  }
  const experts = field("expert_count");
  if (experts !== undefined && experts !== 0) refuse("llama.expert_count must be 0", experts);
  const hidden = count("embedding_length");
  const heads = count("attention.head_count");
  const kvHeads = count("attention.head_count_kv", heads);
  const turned = count("rope.dimension_count", hidden / heads);
  if (turned !== hidden / heads) refuse(`llama.rope.dimension_count must be ${hidden / heads}`, turned);
  for (const which of ["attention.key_length", "attention.value_length"]) {
    const size = count(which, hidden / heads);
    if (size !== hidden / heads) refuse(`llama.${which} must be ${hidden / heads}`, size);
  }
  const names = new Map<string, string>();
  for (const theirs of file.tensors.keys()) {
    const ours = nameOf(theirs);
    if (ours === null) refuse("its tensors must be those of a LLaMA", theirs);
    names.set(ours!, theirs);
  }
  const config = llamaConfig({
    model_type: "llama",
    hidden_act: "silu",
    hidden_size: hidden,
    num_hidden_layers: count("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    intermediate_size: count("feed_forward_length"),
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    max_position_embeddings: count("context_length"),
    rms_norm_eps: rounded(field("attention.layer_norm_rms_epsilon")),
    rope_theta: rounded(field("rope.freq_base") ?? 10_000),
    ...(scaling === "linear"
      ? { rope_scaling: { rope_type: "linear", factor: rounded(field("rope.scaling.factor")) } }
      : {}),
    attention_bias: names.has("model.layers.0.self_attn.q_proj.bias"),
    tie_word_embeddings: !names.has("lm_head.weight"),
  });
  const weights = new LazyArrays(names.keys(), (name) => {
    const array = file.read(names.get(name)!);
    const which = /self_attn\.([qk])_proj/.exec(name)?.[1];
    return which === undefined ? array : unpermuted(array, which === "q" ? heads : kvHeads);
  });
  const fingerprint = await fingerprintOf(config, weights);
  return { config, weights, fingerprint };
}

/** The shortest decimal of a float32: GGUF's 9.99999974e-6 is 1e-5. */
function rounded(value: unknown): number | undefined {
  return value === undefined ? undefined : Number(Number(value).toPrecision(7));
}
