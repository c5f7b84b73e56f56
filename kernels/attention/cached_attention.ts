/**
 * Attention of new tokens to themselves and to those before, whose keys and values are kept.
 *
 * R = rows (sequences continued side by side), T = new tokens of each row, H = heads, G = heads of keys
 * and values, D = head size, S = slots of a row in the cache, a multiple of 4.
 *
 * @module
 */

import extendSource from "./extend_cache.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { gridOf, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import { matmul } from "../matmul/matmul.ts";
import { type AttentionShape, softmaxKernel, windowOf } from "./attention.ts";

const extendKernel = defineKernel({
  name: "extend_cache",
  file: "attention/extend_cache.wgsl",
  source: extendSource,
  bindings: ["old", "parents", "source", "cache"],
  parameters: [
    "slots",
    "old_slots",
    "begin",
    "end",
    "length",
    "added",
    "columns4",
    "first4",
    "source_pitch4",
  ],
});

/** Keys and values of some tokens of each row. */
export interface KeyValueCache {
  /** K and V side by side, [R * S, 2 * G * D]; slots that are not in use are zero. */
  readonly values: Tensor;
  /** R */
  readonly rows: number;
  /** Tokens kept of each row, at most S. */
  readonly length: number;
}

/** Arguments of `extendCache`. */
export interface ExtendCacheOptions {
  /** What is there; disposed, or returned with other contents. `null` to begin. */
  readonly cache: KeyValueCache | null;
  /** Q, K and V of the new tokens, [R * T, (H + 2 G) * D]. */
  readonly qkv: Tensor;
  /** Columns of K and V together, 2 * G * D: the last ones of `qkv`. */
  readonly columns: number;
  /** For each new row the row that it continues, [R]; `null` if they are the same rows in order. */
  readonly parents: readonly number[] | null;
  /** R, new rows. */
  readonly rows: number;
  /** Slots are made in multiples of this, so that not every token asks for a larger cache; a multiple of 4. */
  readonly slotStep: number;
  /** True if `cache` stays as it is where another one takes its place: whoever may go back to it disposes it. @default {false} */
  readonly keepsOld?: boolean;
}

/**
 * Adds the new tokens' keys and values to the cache, whose rows may be reordered, repeated or dropped
 * meanwhile. Where rows stay and slots are left, the cache is added to in place.
 *
 * @returns The cache; the caller's to dispose.
 * @throws {TypeError} If a shape does not fit or there is no such parent.
 */
export function extendCache(options: ExtendCacheOptions): KeyValueCache {
  const { cache, qkv, columns, parents, rows, slotStep, keepsOld = false } = options;
  const { engine } = qkv;
  const first = qkv.columns - columns;
  const added = qkv.rows / rows;
  const length = cache?.length ?? 0;
  if (
    !Number.isInteger(added) || first <= 0 || first % 4 !== 0 || columns % 4 !== 0 || slotStep % 4 !== 0 ||
    (cache !== null && cache.values.columns !== columns)
  ) {
    throw new TypeError(
      `Cannot extend the cache as "${qkv.label}" must have rows for each of ${rows} sequences and, after Q, ${columns} columns as the cache has, all multiples of 4: it is [${qkv.rows}, ${qkv.columns}]`,
    );
  }
  const oldRows = cache?.rows ?? 0;
  const bad = parents?.find((parent) => !(Number.isInteger(parent) && parent >= 0 && parent < oldRows));
  if (bad !== undefined || (cache !== null && (parents?.length ?? oldRows) !== rows)) {
    throw new TypeError(
      `Cannot extend the cache as each of ${rows} rows must continue one of ${oldRows}: ${
        parents === null ? "none is named" : `current value is [${parents}]`
      }`,
    );
  }
  const oldSlots = cache === null ? 0 : cache.values.rows / cache.rows;
  const slots = Math.ceil((length + added) / slotStep) * slotStep;
  const stays = cache !== null && parents === null && slots <= oldSlots;
  using list = stays || cache === null
    ? null
    : engine.upload(Uint32Array.from(parents ?? Array(rows).keys()), 1, rows, "parents");
  const values = stays ? cache.values : engine.tensor(rows * slots, columns, "keys and values");
  const begin = stays ? length : 0;
  const end = stays ? length + added : slots;
  engine.dispatch(extendKernel, {
    bindings: {
      old: stays || cache === null ? engine.nullInput : cache.values,
      parents: list ?? engine.nullInput,
      source: qkv,
      cache: values,
    },
    parameters: {
      slots: stays ? oldSlots : slots,
      old_slots: oldSlots,
      begin,
      end,
      length,
      added,
      columns4: columns / 4,
      first4: first / 4,
      source_pitch4: qkv.pitch / 4,
    },
    workgroups: [Math.ceil(columns / 256), end - begin, rows],
  });
  if (!stays && !keepsOld) cache?.values.dispose();
  return { values, rows, length: length + added };
}

/**
 * softmax(Q K^T * scale) V of the last T tokens of every row over all tokens up to each.
 *
 * @param qkv [R * T, (H + 2 G) * D]: their Q; K and V are read from the cache.
 * @param cache Keys and values, the last T tokens' too.
 * @param shape H and G; a window and a scale as in `attention`.
 * @returns [R * T, H * D]; the caller's to dispose.
 * @throws {TypeError} If a shape does not fit.
 */
export function cachedAttention(
  qkv: Tensor,
  cache: KeyValueCache,
  shape: Pick<AttentionShape, "heads" | "window" | "scale"> & { readonly kvHeads: number },
): Tensor {
  const { engine } = qkv;
  const { values, rows, length } = cache;
  const { heads: count, kvHeads } = shape;
  const added = qkv.rows / rows;
  const headSize = values.columns / (2 * kvHeads);
  const group = count / kvHeads;
  if (!Number.isInteger(group) || qkv.columns !== (count + 2 * kvHeads) * headSize || headSize % 4 !== 0) {
    throw new TypeError(
      `Cannot attend as "${qkv.label}" must have (${count} + 2 * ${kvHeads}) heads of ${headSize} columns, a multiple of 4: it has ${qkv.columns} columns`,
    );
  }
  const slots = values.rows / rows;
  using scores = engine.tensor(qkv.rows, count * slots, "attention scores");
  using logSums = engine.tensor(qkv.rows, count, "attention log sums");
  const members = Array.from({ length: group }, (_, j) => ({
    query: { first: j * headSize, stride: group * headSize },
    slots: { first: j * slots, stride: group * slots },
  }));
  const batch = { groups: rows, heads: kvHeads, m: added };
  for (const { query, slots: c } of members) {
    matmul(qkv, values, {
      transposeB: true,
      alpha: shape.scale ?? 1 / Math.sqrt(headSize),
      out: scores,
      batch: { ...batch, n: slots, k: headSize, a: query, b: { first: 0, stride: headSize }, c },
    });
  }
  const scoreRows = qkv.rows * count;
  engine.dispatch(softmaxKernel[engine.adapterClass], {
    bindings: { scores, log_sums: logSums },
    parameters: {
      rows: scoreRows,
      length: added,
      first: length - added,
      heads: count,
      slots4: roundUp4(slots) / 4,
      log_pitch: logSums.pitch,
      first_row: 0,
      first_head: 0,
      all_heads: count,
      causal: 1,
      window: windowOf(shape),
    },
    workgroups: gridOf(scoreRows, ROWS_PER_WORKGROUP[engine.adapterClass]),
  });
  const output = engine.tensor(qkv.rows, count * headSize, "attention output");
  for (const { query, slots: a } of members) {
    matmul(scores, values, {
      out: output,
      batch: {
        ...batch,
        n: headSize,
        k: slots,
        a,
        b: { first: kvHeads * headSize, stride: headSize },
        c: query,
      },
    });
  }
  return output;
}
