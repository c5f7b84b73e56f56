/**
 * Norms of the base model's weights, one of the predictor's inputs.
 *
 * @module
 */

import { CheckpointError } from "../errors.ts";
import type { Gpt2Config, NamedArrays } from "../model/gpt2.ts";

/**
 * ||W||_F of each attention head of a GPT-2: its columns of W_Q, W_K and W_V and its rows of the output
 * projection together.
 *
 * @param config Shape of the model.
 * @param weights The checkpoint.
 * @returns [L * H], row by row.
 * @throws {CheckpointError} If a weight is missing or has another shape.
 */
export function baseNorms(config: Gpt2Config, weights: NamedArrays): Float32Array {
  const { n_layer: layers, n_head: heads, n_embd: d } = config;
  const squares = new Float64Array(layers * heads);
  const add = (layer: number, name: string, columns: number, column: boolean) => {
    const full = `h.${layer}.attn.${name}.weight`;
    const found = weights.get(`transformer.${full}`) ?? weights.get(full);
    if (found === undefined || found.data.length !== d * columns) {
      throw new CheckpointError(
        `Cannot measure the base weights as "${full}" must be [${d}, ${columns}]: it is ${
          found === undefined ? "missing" : `[${found.shape}]`
        }`,
      );
    }
    found.data.forEach((x, i) => {
      const place = column ? i % columns % d : Math.floor(i / columns);
      squares[layer * heads + Math.floor(place * heads / d)]! += x * x;
    });
  };
  for (let l = 0; l < layers; l++) {
    add(l, "c_attn", 3 * d, true);
    add(l, "c_proj", d, false);
  }
  return Float32Array.from(squares, Math.sqrt);
}
