/**
 * Where head modules' Deltas go among the columns of Q, K and V.
 *
 * H query heads, G heads of keys and values, D head size; Q|K|V has (H + 2 G) * D columns.
 *
 * With grouped-query attention (G < H) the unit stays the query head *(our reading)*: each has its own
 * head module, and its Deltas of K and V are added to the key and value head that it reads, head
 * floor(h / (H / G)), so that the contributions of a group add up. For LoRA on all heads that is the
 * product of one B with the group's A's stacked, as any LoRA of the K and V projections. A pruned head
 * takes its part out of the sum, and nothing else. Only the edge server knows of it: a device sends and
 * receives blocks of D columns for each of its heads, whatever the model.
 *
 * @module
 */

import { LORA_TARGETS, type LoraTarget } from "./targets.ts";

/** Marks a slot that takes no part in a pass of `scatterAddHeadColumns`. */
const NO_HEAD = 0xffff_ffff;

/** What the columns depend on. */
export interface TargetShape {
  /** H. */
  readonly heads: number;
  /** D, head size. */
  readonly headSize: number;
  /** Columns of Q, K and V together, (H + 2 G) * D. */
  readonly columns: number;
}

/** Columns of one target. */
export interface TargetColumns {
  /** Column of head 0. */
  readonly first: number;
  /** For each head asked for, the head among this target's columns: itself, or the one it reads. */
  readonly heads: readonly number[];
  /** The same for adding to the columns, in passes in each of which no two heads meet. */
  readonly passes: readonly (readonly number[])[];
}

/**
 * The columns of some query heads for one target.
 *
 * @param target Q, K or V.
 * @param heads Query heads, each once.
 * @param shape Heads, head size and columns of Q, K and V.
 */
export function targetColumns(
  target: LoraTarget,
  heads: readonly number[],
  shape: TargetShape,
): TargetColumns {
  const { headSize, columns } = shape;
  if (target === "q") return { first: 0, heads, passes: [heads] };
  const queries = shape.heads * headSize;
  const kvColumns = (columns - queries) / 2;
  const group = queries / kvColumns;
  const first = queries + (LORA_TARGETS.indexOf(target) - 1) * kvColumns;
  if (group === 1) return { first, heads, passes: [heads] };
  if (!Number.isInteger(group) || kvColumns % headSize !== 0) {
    throw new TypeError(
      `Cannot place Deltas as heads of keys and values must divide those of queries: heads are ${shape.heads}, head size ${headSize}, columns of Q, K and V ${columns}`,
    );
  }
  const read = heads.map((h) => Math.floor(h / group));
  const passes = Array.from(
    { length: group },
    (_, j) => heads.map((h, i) => h % group === j ? read[i]! : NO_HEAD),
  ).filter((pass) => pass.some((h) => h !== NO_HEAD));
  return { first, heads: read, passes };
}
