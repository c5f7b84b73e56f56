/**
 * The oracle: the heads that matter most in this very step are kept. A yardstick for what any
 * importance that is known beforehand can reach.
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";
import { checkKeep, finite, keepMost, type KeepOptions } from "./keep_share.ts";

/** Options of {@linkcode oraclePruner}. */
export interface OraclePrunerOptions extends KeepOptions {}

/**
 * A pruner that keeps the share `keep` of the heads whose gradients of this step, with no head
 * pruned, are largest.
 *
 * To know them, the engine runs an unpruned forward and backward pass on the same batch before the
 * decision: each step costs more than a step without pruning. So it is not deployable; a step's
 * record tells the extra pass's bytes apart. The scores are the importances.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { oraclePruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const pruner = oraclePruner({ keep: 0.25 });
 * assertEquals(pruner.needs, ["trueGradientNorm"]);
 * assertEquals(pruner.deployable, false);
 * ```
 *
 * @returns A pruner named `"oracle"` that needs `trueGradientNorm` and is not deployable.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function oraclePruner(options: OraclePrunerOptions = {}): Pruner<null> {
  const kept = checkKeep("an oracle", options);
  return {
    name: "oracle",
    prunedFade: 0.9,
    needs: ["trueGradientNorm"],
    deployable: false,
    init: () => null,
    decide(
      { trueGradientNorm = null }: PrunerInput,
      state: null,
      context: PrunerContext,
    ): [PrunerDecision, null] {
      if (trueGradientNorm === null) {
        return [{ mask: new Uint8Array(context.layers * context.heads) }, state];
      }
      const scores = finite(trueGradientNorm);
      return [{ mask: keepMost(scores, context, kept), scores }, state];
    },
  };
}
