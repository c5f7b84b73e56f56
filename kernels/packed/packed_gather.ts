/**
 * Looking up rows of packed weights.
 *
 * @module
 */

import source from "./packed_gather.wgsl" with { type: "text" };
import { defineKernel, type Kernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";
import { PACKED_FORMATS } from "./formats.ts";
import type { PackedMatrix } from "./packed_matrix.ts";
import { PACKED, PACKED_CODES, VEC4 } from "../prelude/mod.ts";

const PARAMETERS = [
  "rows",
  "columns",
  "first",
  "count",
  "b_pitch",
  "s_row",
  "s_pitch",
  "out_pitch4",
  "accumulate",
] as const;

const BINDINGS = ["words", "scales", "ids", "out"] as const;

const kernels = new Map<string, Kernel<typeof PARAMETERS[number], typeof BINDINGS[number]>>();

function kernelFor({ format, groupsAlong }: PackedMatrix) {
  const name = `packed_gather_${format}_${groupsAlong}`;
  let kernel = kernels.get(name);
  if (kernel === undefined) {
    const { code, group } = PACKED_FORMATS[format];
    kernel = defineKernel({
      name,
      file: "packed/packed_gather.wgsl",
      source,
      preludes: [PACKED, PACKED_CODES, VEC4],
      bindings: BINDINGS,
      parameters: PARAMETERS,
      constants: { FORMAT: code, GROUP: group || 1, ALONG_ROWS: Number(groupsAlong === "rows") },
    });
    kernels.set(name, kernel);
  }
  return kernel;
}

/**
 * out[row] (+)= table[ids[row]] as f32; see `embeddingGather`, which checks the ids and calls it.
 *
 * @param table [entries, columns]; may be larger than a binding of the adapter.
 * @param ids Entry of each row, [1, rows] of u32.
 * @param out [rows, columns]
 * @param options Whether to add to what is there.
 */
export function packedGather(
  table: PackedMatrix,
  ids: Tensor,
  out: Tensor,
  { accumulate }: { readonly accumulate: boolean },
): void {
  for (let row = 0; row < table.rows;) {
    const window = table.windowOf(row);
    table.engine.dispatch(kernelFor(table), {
      bindings: { words: window.words, scales: window.scales, ids, out },
      parameters: {
        rows: ids.columns,
        columns: table.columns,
        first: window.row,
        count: window.rows,
        b_pitch: table.words.pitch,
        s_row: window.scaleRow,
        s_pitch: table.scales?.pitch ?? 0,
        out_pitch4: out.pitch / 4,
        accumulate: Number(accumulate),
      },
      workgroups: [Math.ceil(out.pitch / 32), Math.ceil(ids.columns / 8)],
    });
    row += window.rows;
  }
}
