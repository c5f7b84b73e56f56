/**
 * How much adapter memory a frozen base takes.
 *
 * @module
 */

import { familyOf, type ModelConfig } from "./families.ts";
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
  const { layers, ends } = familyOf(config).bytes(config, format);
  return { layers, ends, total: layers + ends };
}
