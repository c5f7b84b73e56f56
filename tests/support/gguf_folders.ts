/**
 * Model folders of the fixtures with a tokenizer that a GGUF file can say.
 *
 * @module
 */

import type { FamilyName } from "./families.ts";
import { FIXTURES } from "./places.ts";

/** A byte-level tokenizer of few tokens, as files of a folder. */
export const SMALL_TOKENIZER = {
  version: "1.0",
  added_tokens: [{ id: 5, content: "<|end|>", special: true, normalized: false }],
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
  post_processor: null,
  decoder: { type: "ByteLevel", add_prefix_space: false },
  model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2, Ġ: 3, Ġab: 4, "<|end|>": 5 }, merges: ["a b", "Ġ ab"] },
};

/**
 * A model folder of a fixture with that tokenizer.
 *
 * @param name The fixture.
 * @param folder Where to; it is there already.
 * @param more Further fields of its `config.json`, or others in their place.
 */
export async function writeFolder(
  name: FamilyName | "gpt2",
  folder: string,
  more: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const from = name === "gpt2" ? `${FIXTURES}parity/gpt2_base` : `${FIXTURES}families/${name}`;
  await Deno.copyFile(`${from}/model.safetensors`, `${folder}/model.safetensors`);
  const put = (file: string, value: unknown) =>
    Deno.writeTextFile(`${folder}/${file}`, JSON.stringify(value));
  const config = JSON.parse(await Deno.readTextFile(`${from}/config.json`));
  await put("config.json", { ...config, ...more });
  await put("tokenizer.json", SMALL_TOKENIZER);
  await put("tokenizer_config.json", { eos_token: "<|end|>", chat_template: "{{ messages }}" });
}

/** What llama.cpp computes otherwise in the fixtures, and a setting that it knows. */
export const LLAMA_CPP_KNOWS: Partial<Record<FamilyName, Readonly<Record<string, unknown>>>> = {
  qwen2: { use_sliding_window: false, layer_types: ["full_attention", "full_attention"] },
  mistral: { sliding_window: null },
  gemma3: {
    layer_types: ["sliding_attention", "sliding_attention"],
    query_pre_attn_scalar: 16,
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 1000 },
      sliding_attention: { rope_type: "default", rope_theta: 10_000 },
    },
  },
  smollm3: { no_rope_layers: [1, 1] },
};
