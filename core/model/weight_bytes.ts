/**
 * How much adapter memory a frozen base takes.
 *
 * @module
 */

import { type GroupsAlong, weightBytes } from "@edgetuner/kernels";
import type { Gpt2Config } from "./families/gpt2.ts";
import { type LlamaConfig, llamaShape } from "./families/llama.ts";
import type { ModelConfig } from "./load.ts";
import { type OptConfig, POSITION_OFFSET } from "./families/opt.ts";
import { type BaseWeights, requireBaseWeights } from "./weights.ts";

/** Bytes of adapter memory that a base's weights take. */
export interface BaseWeightBytes {
  /** The layers: an edge server's part. */
  readonly layers: number;
  /** Embedding, final norm and LM head: a data device's part. */
  readonly ends: number;
  /** Both. */
  readonly total: number;
}

/** Adds up bytes of weights as they are loaded. */
class Sum {
  bytes = 0;

  constructor(readonly format: BaseWeights, readonly groupsAlong: GroupsAlong) {}

  /** A matrix in the format. */
  matrix(rows: number, columns: number, groupsAlong = this.groupsAlong): this {
    this.bytes += weightBytes({ format: this.format, rows, columns, groupsAlong });
    return this;
  }

  /** Norms, biases and tables, in f32. */
  plain(rows: number, columns: number, count = 1): this {
    this.bytes += count * weightBytes({ format: "f32", rows, columns, groupsAlong: "columns" });
    return this;
  }
}

function gpt2Bytes({ n_embd: d, n_layer, vocab_size, n_positions }: Gpt2Config, format: BaseWeights) {
  const layer = new Sum(format, "rows").matrix(d, 3 * d).matrix(d, d).matrix(d, 4 * d).matrix(4 * d, d)
    .plain(1, d, 6).plain(1, 3 * d).plain(1, 4 * d);
  const ends = new Sum(format, "columns").matrix(vocab_size, d).plain(n_positions, d).plain(1, d, 2);
  return { layers: n_layer * layer.bytes, ends: ends.bytes };
}

function llamaBytes(config: LlamaConfig, format: BaseWeights) {
  const { hidden_size: d, intermediate_size: f, vocab_size, attention_bias, mlp_bias } = config;
  const { kvHeads, headSize } = llamaShape(config);
  const qkv = d + 2 * kvHeads * headSize;
  const layer = new Sum(format, "columns").matrix(qkv, d).matrix(d, d).matrix(f, d).matrix(f, d).matrix(d, f)
    .plain(1, d, 2);
  if (attention_bias) layer.plain(1, qkv).plain(1, d);
  if (mlp_bias) layer.plain(1, f, 2).plain(1, d);
  const ends = new Sum(format, "columns").matrix(vocab_size, d).plain(1, d);
  if (!config.tie_word_embeddings) ends.matrix(vocab_size, d);
  return { layers: config.num_hidden_layers * layer.bytes, ends: ends.bytes };
}

function optBytes(config: OptConfig, format: BaseWeights) {
  const { hidden_size: d, ffn_dim: f, vocab_size, max_position_embeddings } = config;
  const layer = new Sum(format, "columns").matrix(3 * d, d).matrix(d, d).matrix(f, d).matrix(d, f)
    .plain(1, d, 4);
  if (config.enable_bias) layer.plain(1, 3 * d).plain(1, d, 2).plain(1, f);
  const ends = new Sum(format, "columns").matrix(vocab_size, d).plain(1, d, 2)
    .plain(max_position_embeddings + POSITION_OFFSET, d);
  if (!config.tie_word_embeddings) ends.matrix(vocab_size, d);
  return { layers: config.num_hidden_layers * layer.bytes, ends: ends.bytes };
}

/**
 * Bytes of adapter memory that a base's weights take, as the engine counts them when they are loaded. What a
 * step needs beside them, and the copies of f32 weights that software adapters read, come on top.
 *
 * @param config Shape of the model.
 * @param format How its matrices are held.
 * @throws {RangeError} If there is no such format.
 *
 * @example
 * ```ts
 * import { baseWeightBytes, gpt2Config } from "@edgetuner/core";
 *
 * const config = gpt2Config({ n_layer: 12, n_head: 12, n_embd: 768, vocab_size: 50257, n_positions: 1024 });
 * baseWeightBytes(config, "f32").total; // 497759232
 * baseWeightBytes(config, "int8").total; // 134884096
 * ```
 */
export function baseWeightBytes(config: ModelConfig, format: BaseWeights): BaseWeightBytes {
  requireBaseWeights(format);
  const { layers, ends } = !("model_type" in config)
    ? gpt2Bytes(config, format)
    : config.model_type === "llama"
    ? llamaBytes(config, format)
    : optBytes(config, format);
  return { layers, ends, total: layers + ends };
}
