/**
 * What a packed base holds, worked out on the host, and models of any shape.
 *
 * @module
 */

import type { BaseWeights, LlamaConfig, ModelFiles, NamedArray } from "@edgetuner/core";
import { packedReference } from "../../kernels/packed/packed_reference.ts";
import { normal } from "./kernels.ts";

/** Matrices that are packed: of GPT-2 stored [in, out], of others [out, in], and tables of tokens. */
const IN_OUT = /(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$/;
const OUT_IN = /(_proj|out_proj|fc1|fc2|wte|embed_tokens|lm_head)\.weight$/;

/** A checkpoint whose matrices have the values that packing gives them, as f32. */
export function unpacked({ config, weights }: ModelFiles, format: BaseWeights): ModelFiles {
  const all = new Map<string, NamedArray>();
  for (const [name, array] of weights) {
    const groupsAlong = IN_OUT.test(name) ? "rows" : OUT_IN.test(name) ? "columns" : null;
    if (format === "f32" || groupsAlong === null) all.set(name, array);
    else {
      const [rows, columns] = array.shape as [number, number];
      all.set(name, {
        shape: array.shape,
        data: packedReference(array.data, { format, rows, columns, groupsAlong }),
      });
    }
  }
  return { config, weights: all };
}

/** A LLaMA of any shape with weights drawn at random. */
export function randomLlama(config: LlamaConfig, seed = 1): ModelFiles {
  const { hidden_size: d, intermediate_size: f, vocab_size: vocabulary } = config;
  const kv = d / config.num_attention_heads * config.num_key_value_heads;
  const weights = new Map<string, NamedArray>();
  const add = (name: string, ...shape: number[]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const data = normal(count, seed + weights.size, shape.length === 1 ? 0.1 : 0.05);
    weights.set(name, { shape, data });
  };
  add("model.embed_tokens.weight", vocabulary, d);
  add("model.norm.weight", d);
  if (!config.tie_word_embeddings) add("lm_head.weight", vocabulary, d);
  for (let l = 0; l < config.num_hidden_layers; l++) {
    const layer = `model.layers.${l}`;
    add(`${layer}.input_layernorm.weight`, d);
    add(`${layer}.post_attention_layernorm.weight`, d);
    add(`${layer}.self_attn.q_proj.weight`, d, d);
    add(`${layer}.self_attn.k_proj.weight`, kv, d);
    add(`${layer}.self_attn.v_proj.weight`, kv, d);
    add(`${layer}.self_attn.o_proj.weight`, d, d);
    add(`${layer}.mlp.gate_proj.weight`, f, d);
    add(`${layer}.mlp.up_proj.weight`, f, d);
    add(`${layer}.mlp.down_proj.weight`, d, f);
  }
  return { config, weights };
}
