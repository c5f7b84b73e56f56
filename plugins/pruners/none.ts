/**
 * No pruning: vEdgeTuner.
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";

/**
 * A pruner that keeps every head in every step. This is vEdgeTuner, the baseline without pruning.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { noPruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const pruner = noPruner();
 * assertEquals(pruner.needs, []);
 * ```
 *
 * @returns A pruner named `"none"` that needs no statistics.
 */
export function noPruner(): Pruner<null> {
  return {
    name: "none",
    needs: [],
    init: () => null,
    decide(_input: PrunerInput, state: null, { layers, heads }: PrunerContext): [PrunerDecision, null] {
      return [{ mask: new Uint8Array(layers * heads) }, state];
    },
  };
}
