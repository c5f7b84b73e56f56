/**
 * Magnitude pruning: the heads whose LoRA weights have grown most are kept.
 *
 * @module
 */

import {
  numberCheck,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "@edgetuner/core/contracts";
import { checkKeep, finite, isCount, keepMost, type KeepOptions } from "./keep_share.ts";

/** Options of {@linkcode magnitudePruner}. */
export interface MagnitudePrunerOptions extends KeepOptions {
  /** Steps in which every head is kept, so that all of them can grow, counted from step 0. @default {10} */
  readonly warmupSteps?: number;
}

/**
 * A pruner that keeps the share `keep` of the heads with the largest ||Delta W||_F.
 *
 * A pruned head's norm is known, but does not change, while those of kept heads go on: the choice
 * made after the warm-up hardly moves. That is the nature of the rule, and left as it is. Every head
 * is kept as long as no norms are known. The scores are the norms.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { magnitudePruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const pruner = magnitudePruner({ keep: 0.25, scope: "layer" });
 * assertEquals(pruner.needs, ["loraNorm"]);
 * ```
 *
 * @returns A pruner named `"magnitude"` that needs `loraNorm`.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function magnitudePruner(options: MagnitudePrunerOptions = {}): Pruner<null> {
  const { warmupSteps = 10 } = options;
  const kept = checkKeep("a magnitude pruner", options);
  numberCheck("create a magnitude pruner")(
    "warmupSteps",
    warmupSteps,
    "an integer that is not negative",
    isCount,
  );
  return {
    name: "magnitude",
    prunedFade: 0.9,
    needs: ["loraNorm"],
    init: () => null,
    decide({ step, loraNorm }: PrunerInput, state: null, context: PrunerContext): [PrunerDecision, null] {
      if (step < warmupSteps || loraNorm === null) {
        return [{ mask: new Uint8Array(context.layers * context.heads) }, state];
      }
      const scores = finite(loraNorm);
      return [{ mask: keepMost(scores, context, kept), scores }, state];
    },
  };
}
