/**
 * Rotary position embedding (Su et al., 2021) of queries and keys, in the pairing of Hugging Face's
 * LLaMA: column i of a head goes with column i + D / 2.
 *
 * @module
 */

import source from "./rope.wgsl" with { type: "text" };
import type { Engine } from "../engine/engine.ts";
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";

const kernels = [1, -1].map((sign) =>
  defineKernel({
    name: sign === 1 ? "rope" : "rope_backward",
    file: "rope/rope.wgsl",
    source,
    bindings: ["x", "table"],
    parameters: [
      "rows",
      "row_first",
      "length",
      "first",
      "heads",
      "half4",
      "pitch4",
    ],
    constants: { SIGN: sign },
  })
);

/** Options of `rope`. */
export interface RopeOptions {
  /** [positions, D], from `ropeTable`. */
  readonly table: Tensor;
  /** Heads to turn: the first `heads * D` columns. */
  readonly heads: number;
  /** T, rows of each sequence. */
  readonly length: number;
  /** Position of each sequence's first row. @default {0} */
  readonly first?: number;
  /** Turn back: the gradient's way. @default {false} */
  readonly inverse?: boolean;
}

/**
 * Cosines and sines of all angles, [positions, D]: D / 2 cosines, then D / 2 sines a row. Angles are
 * rounded to f32 before the cosine is taken, as models were trained with.
 *
 * @param engine Where the table goes.
 * @param frequencies Angle per position, [D / 2].
 * @param positions Number of positions.
 * @param scale What all are multiplied by: heads are then made longer too. @default {1}
 */
export function ropeTable(
  engine: Engine,
  frequencies: ArrayLike<number>,
  positions: number,
  scale = 1,
): Tensor {
  const half = frequencies.length;
  const values = new Float32Array(positions * 2 * half);
  for (let t = 0; t < positions; t++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(t * Math.fround(frequencies[i]!));
      values[t * 2 * half + i] = scale * Math.cos(angle);
      values[t * 2 * half + half + i] = scale * Math.sin(angle);
    }
  }
  return engine.upload(values, positions, 2 * half, "rope table");
}

/**
 * Turns heads by their positions' angles, in place. As a rotation, and a factor if the table has one, it is its own
 * gradient, turned the other way.
 *
 * @param x [B * T, columns]: heads side by side, then columns that stay.
 * @param options Table, heads, and where sequences begin.
 * @throws {TypeError} If D is not a multiple of 8 or a shape does not fit.
 */
export function rope(x: Tensor, options: RopeOptions): void {
  const { table, heads, length, first = 0, inverse = false } = options;
  const headSize = table.columns;
  if (headSize % 8 !== 0) {
    throw new TypeError(
      `Cannot turn heads as the head size must be a multiple of 8: current value is ${headSize}`,
    );
  }
  if (x.columns < heads * headSize || x.rows % length !== 0 || first + length > table.rows) {
    throw new TypeError(
      `Cannot turn heads as "${x.label}" must have ${
        heads * headSize
      } columns, sequences of ${length} rows and positions below ${table.rows}: it is [${x.rows}, ${x.columns}] from position ${first}`,
    );
  }
  const half4 = headSize / 8;
  for (const window of x.windows()) {
    const { rows, row: row_first } = window;
    x.engine.dispatch(kernels[Number(inverse)]!, {
      bindings: { x: window, table },
      parameters: { rows, row_first, length, first, heads, half4, pitch4: x.pitch / 4 },
      workgroups: [Math.ceil(heads * half4 / 8), Math.ceil(rows / 8)],
    });
  }
}
