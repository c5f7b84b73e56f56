/**
 * Importance of the heads after a step, in double precision: slow, readable, what the kernel is
 * compared with.
 *
 * @module
 */

import type { UpdateImportanceOptions } from "./pruning.ts";

/** Result of `updateImportanceReference`. */
export interface UpdateImportanceReferenceResult {
  /** G, [L * H]. */
  readonly g: Float64Array;
  /** S, [L * H]. */
  readonly s: Float64Array;
}

/** Min-max normalisation over the observed heads and smoothing along the steps; see `updateImportance`. */
export function updateImportanceReference(options: UpdateImportanceOptions): UpdateImportanceReferenceResult {
  const { heads, gradient, observed, previous, lambda, recovery = 0 } = options;
  const size = gradient.length;
  const seen = Array.from(gradient, (x, i) => observed?.[i] !== 0 && Number.isFinite(x));
  const shown = [...gradient].filter((_, i) => seen[i]);
  const lowest = Math.min(...shown);
  const highest = Math.max(...shown);
  const g = Float64Array.from(
    gradient,
    (x, i) => seen[i] && highest > lowest ? (x - lowest) / (highest - lowest) : 0,
  );
  const s = g.map((x, i) => previous === null ? x : lambda * x + (1 - lambda) * previous[i]!);
  const meanOf = (places: number[]) => {
    const values = places.filter((i) => seen[i]).map((i) => s[i]!);
    return values.length === 0 ? null : values.reduce((a, b) => a + b, 0) / values.length;
  };
  const everywhere = meanOf([...g.keys()]);
  for (let start = 0; start < size; start += heads) {
    const layer = Array.from({ length: heads }, (_, h) => start + h);
    const target = meanOf(layer) ?? everywhere;
    for (const i of layer) {
      if (seen[i]) continue;
      const held = previous?.[i] ?? target ?? 0;
      s[i] = target === null ? held : held + recovery * (target - held);
    }
  }
  return { g, s };
}
