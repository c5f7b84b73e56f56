/**
 * iHeadPruner's greedy rule on measured gradients: comprehensive importance (Eq. 29), greedy pruning
 * (Eq. 30) and the layer-wise rule, with S_base taken from the gradient norms of the last steps.
 *
 * L = layers, H = heads per layer, M = user devices, K = history length.
 *
 * The published rules alone come to a standstill: importances that differ as gradients do lose more
 * than eta = 0.4 of a layer's heads when 0.3 of its importance is cut, in every layer, and what is
 * pruned is no longer measured. Three parameters, all *our reading*, keep the run going: `recovery`
 * lets a pruned head's held importance drift back, `maxRest` bounds the steps it can stay away, and
 * `maxLayerShare` bounds how many layers are pruned whole at once.
 *
 * @module
 */

import { deviceWeights } from "@edgetuner/core";
import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";
import {
  decideGreedily,
  type GreedyPrunerOptions,
  greedySettings,
  observe,
  restAfter,
} from "./_greedy_rules.ts";

export type { GreedyPrunerOptions } from "./_greedy_rules.ts";

/** State of {@linkcode greedyPruner}: plain data. */
export interface GreedyState {
  /** Smoothed importance S of the last steps, oldest first, at most `history` maps of [L * H]. */
  readonly history: readonly Float32Array[];
  /** Steps in a row that each head has been pruned, [L * H]. */
  readonly rest: Uint32Array;
}

/** S_base: mean of the maps, [L * H]. */
function meanOf(history: readonly Float32Array[]): Float32Array {
  return history[0]!.map((_, i) => history.reduce((sum, s) => sum + s[i]!, 0) / history.length);
}

/**
 * A pruner that cuts, layer by layer, the heads whose gradients have been smallest.
 *
 * In each step
 * 1. G of the last step is min-max normalised over the heads that were kept and smoothed,
 *    S[k] = lambda * G[k] + (1 - lambda) * S[k-1]. A pruned head has shown nothing: its S is held and
 *    drifts by `recovery` to the mean of the kept heads of its layer. An entry that is not finite
 *    counts as not shown.
 * 2. S_base is the mean of the last K maps S.
 * 3. Eq. 29 and Eq. 30 give the mask, on `compute`.
 * 4. A layer that has lost more than eta of its heads is pruned whole: the least important such
 *    layers first, at most `maxLayerShare` of all layers. Any other layer keeps at least one head.
 * 5. A head that has been pruned `maxRest` steps in a row is kept once.
 *
 * Every head is kept in the first `warmupSteps` steps and as long as there are no statistics. The
 * scores are S_comp.
 *
 * With `recovery: 0`, `maxRest: Infinity` and `maxLayerShare: 1` the published rules remain.
 *
 * @category Pruners
 *
 * @example Prune as published, but never whole layers
 * ```ts
 * import { greedyPruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const context = { layers: 1, heads: 4, headsPerDevice: [2, 2], capacities: [2, 2], seed: 1 };
 * const pruner = greedyPruner({ eta: 1, warmupSteps: 1 });
 * const [{ mask }] = await pruner.decide(
 *   {
 *     step: 1,
 *     lastMask: new Uint8Array(4),
 *     gradientNorm: Float32Array.of(5, 1, 4, 2),
 *     loraNorm: null,
 *     baseNorm: null,
 *     embeddingMean: null,
 *   },
 *   pruner.init(context),
 *   context,
 * );
 * assertEquals([...mask], [0, 1, 1, 1]); // (1 + 0 + 0.75 + 0.25) * 0.7 = 1.4: 1.75 is above, 1 is not
 * ```
 *
 * @returns A pruner named `"greedy"` that needs `gradientNorm`.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function greedyPruner(options: GreedyPrunerOptions = {}): Pruner<GreedyState> {
  const settings = greedySettings("greedy", options);
  const { alpha, rho, beta, history, warmupSteps } = settings;

  return {
    name: "greedy",
    prunedFade: 0.9,
    needs: ["gradientNorm"],
    init({ layers, heads, headsPerDevice, capacities }: PrunerContext): GreedyState {
      deviceWeights({ headsPerDevice, capacities, alpha, rho, beta }); // fails early
      return { history: [], rest: new Uint32Array(layers * heads) };
    },
    async decide(
      input: PrunerInput,
      before: GreedyState,
      context: PrunerContext,
    ): Promise<[PrunerDecision, GreedyState]> {
      const shown = observe(input, before.history.at(-1) ?? null, context, settings);
      const state = {
        history: shown === null ? before.history : [...before.history, shown.importance].slice(-history),
        rest: restAfter(before.rest, input),
      };
      if (input.step < warmupSteps || state.history.length === 0) {
        return [{ mask: new Uint8Array(context.layers * context.heads) }, state];
      }
      return [await decideGreedily(meanOf(state.history), state.rest, context, settings), state];
    },
  };
}
