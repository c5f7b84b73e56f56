/**
 * How much head modules add to their layers, measured where their weights are.
 *
 * L layers, n head modules of a layer, r rank, c targets. See `core/lora` for what an arena holds.
 *
 * @module
 */

import source from "./lora_norms.wgsl" with { type: "text" };
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import { ROW_ENTRIES, VEC4 } from "../prelude/mod.ts";

const kernel = defineRowKernel({
  name: "lora_norms",
  file: "pruning/lora_norms.wgsl",
  source,
  preludes: [...ROW_ENTRIES, VEC4],
  bindings: ["arena", "out"],
  parameters: [
    "heads",
    "targets",
    "rank4",
    "inputs4",
    "outputs",
    "segment4",
    "first",
    "scale",
  ],
});

/** Shape of the head modules of a layer. */
export interface LoraNormsOptions {
  /** c, matrices B A of a head module. */
  readonly targets: number;
  /** r, rank; A has as many rows, rounded up to a multiple of 4. */
  readonly rank: number;
  /** Columns of A. */
  readonly inputs: number;
  /** Rows of B. */
  readonly outputs: number;
  /** Factor of B A, such as alpha / r. */
  readonly scale: number;
}

/**
 * ||scale * B A||_F over the targets of each head module, from the Gram matrices of A and B.
 *
 * @param arenas Weights of every layer, [n, segment] each: per head and target A [r, inputs], then B [outputs, r], rows
 * padded to multiples of 4, and A's rows too.
 * @param options Shape and factor.
 * @returns [L, n]; the caller's to dispose.
 * @throws {TypeError} If the arenas do not hold such head modules.
 */
export function loraNorms(arenas: readonly Tensor[], options: LoraNormsOptions): Tensor {
  const { targets, rank, inputs, outputs, scale } = options;
  const [first] = arenas;
  const rank4 = roundUp4(rank) / 4;
  const segment = targets * (rank4 * 4 * roundUp4(inputs) + outputs * rank4 * 4);
  const other = arenas.find((arena) => arena.rows !== first!.rows || arena.columns !== segment);
  if (first === undefined || other !== undefined) {
    throw new TypeError(
      `Cannot measure head modules as each layer must have as many, of ${segment} elements each: ${
        other === undefined ? "there are no layers" : `"${other.label}" is [${other.rows}, ${other.columns}]`
      }`,
    );
  }
  const { engine, rows: heads } = first;
  const out = engine.zeros(arenas.length, heads, "norms of head modules"); // the kernel writes no padding
  arenas.forEach((arena, layer) => {
    engine.dispatch(kernel[engine.adapterClass], {
      bindings: { arena, out },
      parameters: {
        heads,
        targets,
        rank4,
        inputs4: roundUp4(inputs) / 4,
        outputs,
        segment4: segment / 4,
        first: layer * out.pitch,
        scale,
      },
      workgroups: [Math.ceil(heads / ROWS_PER_WORKGROUP[engine.adapterClass])],
    });
  });
  return out;
}
