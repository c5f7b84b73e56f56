/**
 * Collecting pruner samples during an unpruned run.
 *
 * L = layers, H = heads per layer, d = hidden size.
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";
import type { PrunerSample } from "@edgetuner/core";

/** Options of {@linkcode collectingPruner}. */
export interface CollectingPrunerOptions {
  /**
   * Takes each sample, for instance to give it to `SampleWriter.write`, and is told what the pruner was told.
   * The only effect of `decide` outside its result.
   */
  readonly write: (sample: PrunerSample, context: PrunerContext) => void | Promise<void>;
}

/** State of {@linkcode collectingPruner}: the last step, whose gradients are not known yet. */
export type CollectingState = Omit<PrunerSample, "gradientNorm"> | null;

/**
 * A pruner that keeps every head in every step and hands on what the steps show. A step's sample is complete
 * when its gradients are known, that is at the next step: the last step of a run gives none, and neither does
 * a step without LoRA norms (the first one of a run) or with values that are not finite.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { collectingPruner } from "@edgetuner/plugins";
 *
 * const samples: unknown[] = [];
 * const pruner = collectingPruner({ write: (sample) => void samples.push(sample) });
 * ```
 *
 * @returns A pruner named `"none, collecting"` that needs every statistic of a sample.
 */
export function collectingPruner({ write }: CollectingPrunerOptions): Pruner<CollectingState> {
  return {
    name: "none, collecting",
    needs: ["gradientNorm", "loraNorm", "embeddingMean"],
    init: () => null,
    async decide(
      input: PrunerInput,
      last: CollectingState,
      context: PrunerContext,
    ): Promise<[PrunerDecision, CollectingState]> {
      const { layers, heads, seed } = context;
      const { step, gradientNorm, lastMask, loraNorm, embeddingMean } = input;
      if (
        last !== null && last.step === step - 1 && gradientNorm !== null && !lastMask?.includes(1) &&
        [last.embeddingMean, last.loraNorm, gradientNorm].every((map) => map.every(Number.isFinite))
      ) {
        await write({ ...last, gradientNorm: gradientNorm.slice() }, context);
      }
      const next = loraNorm === null || embeddingMean === null
        ? null
        : { seed, step, loraNorm: loraNorm.slice(), embeddingMean: embeddingMean.slice() };
      return [{ mask: new Uint8Array(layers * heads) }, next];
    },
  };
}
