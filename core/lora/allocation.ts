/**
 * Which device owns which heads (Eq. 3).
 *
 * @module
 */

/** The heads a device owns in every layer. */
export interface HeadRange {
  /** First head. */
  readonly first: number;
  /** Number of heads, H_m. */
  readonly count: number;
}

/**
 * Divides H heads among devices in proportion to their capacities: largest remainder, ties to the
 * lower index, every device at least one head while there are enough.
 *
 * @param heads H, heads of a layer.
 * @param capacities gamma_m of each device; any positive unit.
 * @returns A contiguous range per device, in order.
 * @throws {RangeError} If there are more devices than heads, or a capacity is not positive.
 * @example
 * ```ts
 * import { allocateHeads } from "@edgetuner/core";
 *
 * allocateHeads(16, [8, 5, 3]); // 8, 5 and 3 heads
 * ```
 */
export function allocateHeads(heads: number, capacities: readonly number[]): HeadRange[] {
  if (capacities.length === 0 || capacities.length > heads) {
    throw new RangeError(
      `Cannot allocate heads as there must be 1 to ${heads} devices (heads per layer): current value is ${capacities.length}`,
    );
  }
  const bad = capacities.findIndex((c) => !(c > 0 && Number.isFinite(c)));
  if (bad >= 0) {
    throw new RangeError(
      `Cannot allocate heads as every capacity must be positive: that of device ${bad} is ${capacities[bad]}`,
    );
  }
  const total = capacities.reduce((a, b) => a + b, 0);
  const quotas = capacities.map((c) => heads * c / total);
  const counts = quotas.map(Math.floor);
  const byRemainder = quotas.map((q, m) => [q - Math.floor(q), m] as const)
    .sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  let left = heads - counts.reduce((a, b) => a + b, 0);
  for (const [, m] of byRemainder) {
    if (left === 0) break;
    counts[m]!++;
    left--;
  }
  // A device that joined gets at least one head, from the one that has most; of several the weakest.
  for (let m = 0; m < counts.length; m++) {
    if (counts[m]! > 0) continue;
    const most = Math.max(...counts);
    let giver = counts.indexOf(most);
    counts.forEach((count, n) => {
      if (count === most && quotas[n]! < quotas[giver]!) giver = n;
    });
    counts[giver]!--;
    counts[m] = 1;
  }
  let first = 0;
  return counts.map((count) => {
    const range = { first, count };
    first += count;
    return range;
  });
}
