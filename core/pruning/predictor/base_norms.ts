/**
 * Norms of the base model's weights, one of the predictor's inputs.
 *
 * L layers, H heads, d hidden size.
 *
 * @module
 */

import { CheckpointError } from "../../contracts/errors.ts";
import { type Checkpoint, modelShape } from "../../model/load.ts";

/**
 * ||W||_F of each attention head: its part of W_Q, W_K, W_V and of the output projection together. Keys and
 * values that a group of heads shares count for each of them.
 *
 * @param model Shape and weights.
 * @returns [L * H], row by row.
 * @throws {CheckpointError} If a weight is missing or has another shape.
 */
export function baseNorms({ config, weights }: Checkpoint): Float32Array {
  const { layers, heads, kvHeads, hidden: d, headSize } = modelShape(config);
  const squares = new Float64Array(layers * heads);
  const group = heads / kvHeads;
  /** Adds a weight whose rows (or columns) lie head by head: those of `owners` heads, each of `readers`. */
  const add = (
    layer: number,
    names: readonly string[],
    rows: number,
    columns: number,
    of: (i: number) => {
      /** Head of keys and values, or query head. */
      readonly owner: number;
      /** Query heads that read it. */
      readonly readers: number;
    },
  ) => {
    const found = names.map((name) => weights.get(name)).find((array) => array !== undefined);
    if (found === undefined || found.data.length !== rows * columns) {
      throw new CheckpointError(
        `Cannot measure the base weights as "${names[0]}" must be [${rows}, ${columns}]: it is ${
          found === undefined ? "missing" : `[${found.shape}]`
        }`,
      );
    }
    found.data.forEach((x, i) => {
      const { owner, readers } = of(i);
      for (let h = 0; h < readers; h++) squares[layer * heads + owner * readers + h]! += x * x;
    });
  };
  const headOf = (place: number) => Math.floor(place / headSize);
  for (let l = 0; l < layers; l++) {
    if (!("model_type" in config)) {
      const names = (
        name: string,
      ) => [`transformer.h.${l}.attn.${name}.weight`, `h.${l}.attn.${name}.weight`];
      add(l, names("c_attn"), d, 3 * d, (i) => ({ owner: headOf(i % (3 * d) % d), readers: 1 }));
      add(l, names("c_proj"), d, d, (i) => ({ owner: headOf(Math.floor(i / d)), readers: 1 }));
      continue;
    }
    const opt = config.model_type === "opt";
    const names = (name: string) =>
      (opt ? ["model.decoder.", "decoder.", ""] : ["model.", ""]).map((prefix) =>
        `${prefix}layers.${l}.self_attn.${name}.weight`
      );
    const kv = kvHeads * headSize;
    // Stored [out, in].
    add(l, names("q_proj"), d, d, (i) => ({ owner: headOf(Math.floor(i / d)), readers: 1 }));
    for (const name of ["k_proj", "v_proj"]) {
      add(l, names(name), kv, d, (i) => ({ owner: headOf(Math.floor(i / d)), readers: group }));
    }
    add(l, names(opt ? "out_proj" : "o_proj"), d, d, (i) => ({ owner: headOf(i % d), readers: 1 }));
  }
  return Float32Array.from(squares, Math.sqrt);
}
