/**
 * Keeping a given share of the heads: what the pruners that other pruners are compared with have in
 * common.
 *
 * L = layers, H = heads per layer.
 *
 * @module
 */

import { numberCheck, type PrunerContext } from "@edgetuner/core/contracts";

/** Among which heads the most important ones are chosen: all of the model, or those of each layer. */
export type KeepScope = "model" | "layer";

/** How many heads are kept, and among which they are chosen. */
export interface KeepOptions {
  /**
   * Share of the heads that is kept, above 0, at most 1; rounded to whole heads, at least one.
   *
   * @default {0.5}
   */
  readonly keep?: number;
  /**
   * `"model"`: the most important heads of the whole L x H map, so that a layer may be pruned whole
   * and its round trips disappear. `"layer"`: the same number in every layer. *Our reading:* the
   * whole map, as importances are compared over the whole map everywhere else.
   *
   * @default {"model"}
   */
  readonly scope?: KeepScope;
}

/** True for integers that count something. */
export function isCount(x: number): boolean {
  return Number.isSafeInteger(x) && x >= 0;
}

/** Fills in and checks what is kept. */
export function checkKeep(
  pruner: string,
  { keep = 0.5, scope = "model" }: KeepOptions,
): Required<KeepOptions> {
  numberCheck(`create ${pruner}`)("keep", keep, "above 0 and at most 1", (x) => x > 0 && x <= 1);
  if (scope !== "model" && scope !== "layer") {
    throw new TypeError(
      `Cannot create ${pruner} as "scope" must be "model" or "layer": current value is ${
        JSON.stringify(scope)
      }`,
    );
  }
  return { keep, scope };
}

/** Values that are finite, 0 in place of others, so that they can be ranked and shown. */
export function finite(values: Float32Array): Float32Array {
  return values.map((x) => Number.isFinite(x) ? x : 0);
}

/**
 * The mask that keeps the heads with the largest importance; of equal ones the first.
 *
 * @param importance [L * H], finite.
 * @param first [L * H]: heads with a larger number here go before all with a smaller one. None if left out.
 */
export function keepMost(
  importance: Float32Array,
  { layers, heads }: PrunerContext,
  { keep, scope }: Required<KeepOptions>,
  first?: Uint32Array,
): Uint8Array {
  const mask = new Uint8Array(layers * heads).fill(1);
  const group = scope === "layer" ? heads : mask.length;
  const count = Math.max(1, Math.round(keep * group));
  for (let start = 0; start < mask.length; start += group) {
    const order = Array.from({ length: group }, (_, i) => start + i)
      .sort((a, b) => (first?.[b] ?? 0) - (first?.[a] ?? 0) || importance[b]! - importance[a]! || a - b);
    for (const i of order.slice(0, count)) mask[i] = 0;
  }
  return mask;
}
