/**
 * Embedding tables: gathering rows, and adding gradients back to them.
 *
 * @module
 */

import gatherSource from "./embedding_gather.wgsl" with { type: "text" };
import scatterSource from "./embedding_scatter.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";
import { packedGather } from "../packed/packed_gather.ts";
import { PackedMatrix } from "../packed/packed_matrix.ts";

const gatherKernel = defineKernel({
  name: "embedding_gather",
  file: "embedding/embedding_gather.wgsl",
  source: gatherSource,
  bindings: ["table", "ids", "out"],
  parameters: ["rows", "pitch4", "first", "count", "accumulate"],
});

const scatterKernel = defineKernel({
  name: "embedding_scatter",
  file: "embedding/embedding_scatter.wgsl",
  source: scatterSource,
  bindings: ["d_out", "lists", "d_table"],
  parameters: ["groups", "pitch4", "first", "count"],
});

function requireIds(ids: Uint32Array, table: Tensor | PackedMatrix): void {
  const bad = ids.findIndex((id) => id >= table.rows);
  if (bad >= 0) {
    throw new RangeError(
      `Cannot look up "${table.label}" as ids must be below ${table.rows}: id ${bad} is ${ids[bad]}`,
    );
  }
}

/**
 * Gathers rows of a table: out[row] (+)= table[ids[row]].
 *
 * @param table [entries, columns]; may be larger than a binding of the adapter, or packed.
 * @param ids Entry of each row.
 * @param out [rows, columns] to add to. @default {a new tensor that is overwritten}
 * @throws {RangeError} If an id is not in the table.
 */
export function embeddingGather(table: Tensor | PackedMatrix, ids: Uint32Array, out?: Tensor): Tensor {
  requireIds(ids, table);
  const { engine } = table;
  using idTensor = engine.upload(ids, 1, ids.length, "ids");
  const result = out ?? engine.tensor(ids.length, table.columns, "embedding");
  if (table instanceof PackedMatrix) {
    packedGather(table, idTensor, result, { accumulate: out !== undefined });
    return result;
  }
  const { pitch } = table;
  for (const window of table.windows()) {
    engine.dispatch(gatherKernel, {
      bindings: { table: window, ids: idTensor, out: result },
      parameters: {
        rows: ids.length,
        pitch4: pitch / 4,
        first: window.row,
        count: window.rows,
        accumulate: Number(out !== undefined),
      },
      workgroups: [Math.ceil(pitch / 32), Math.ceil(ids.length / 8)],
    });
  }
  return result;
}

/**
 * Adds gradients back to a table: dTable[ids[row]] += dOut[row].
 *
 * @param dOut [rows, columns]
 * @param ids Entry of each row.
 * @param dTable [entries, columns], added to.
 * @throws {RangeError} If an id is not in the table.
 */
export function embeddingScatterAdd(dOut: Tensor, ids: Uint32Array, dTable: Tensor): void {
  requireIds(ids, dTable);
  const rowsOf = new Map<number, number[]>();
  ids.forEach((id, row) => {
    const rows = rowsOf.get(id);
    if (rows === undefined) rowsOf.set(id, [row]);
    else rows.push(row);
  });
  const groups = rowsOf.size;
  const lists = new Uint32Array(2 * groups + 1 + ids.length);
  let group = 0;
  let place = 0;
  for (const [id, rows] of rowsOf) {
    lists[group] = id;
    lists[groups + group] = place;
    lists.set(rows, 2 * groups + 1 + place);
    place += rows.length;
    group++;
  }
  lists[2 * groups] = place;
  const { engine, pitch } = dTable;
  using listTensor = engine.upload(lists, 1, lists.length, "embedding lists");
  for (const window of dTable.windows()) {
    engine.dispatch(scatterKernel, {
      bindings: { d_out: dOut, lists: listTensor, d_table: window },
      parameters: { groups, pitch4: pitch / 4, first: window.row, count: window.rows },
      workgroups: [Math.ceil(pitch / 32), groups],
    });
  }
}
