/**
 * Any pruner's scores under a fixed budget, so that pruners can be compared at equal traffic.
 *
 * L = layers, H = heads per layer.
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core";

/** Options of {@linkcode budgetPruner}. */
export interface BudgetPrunerOptions<State> {
  /** Whose scores say which heads matter; its own mask is not used. */
  readonly pruner: Pruner<State>;
  /** Share of all L * H head modules that is kept in every step, in [0, 1]; rounded to whole heads. */
  readonly keep: number;
  /** Steps in which every head is kept, counted from step 0. @default {0} */
  readonly warmupSteps?: number;
}

/**
 * A pruner that keeps the heads with the highest scores of another one: the same number in every step,
 * over all layers together. As long as the other one gives no scores, every head is kept.
 *
 * @example
 * ```ts
 * import { budgetPruner, greedyPruner } from "@edgetuner/plugins";
 *
 * const pruner = budgetPruner({ pruner: greedyPruner(), keep: 0.5 });
 * console.log(pruner.name); // "greedy at 50 %"
 * ```
 *
 * @returns A pruner with the needs of the other one.
 * @throws {TypeError} If `keep` or `warmupSteps` is not a number.
 * @throws {RangeError} If `keep` is not in [0, 1] or `warmupSteps` is not an integer of at least 0.
 */
export function budgetPruner<State>(options: BudgetPrunerOptions<State>): Pruner<State> {
  const { pruner, keep, warmupSteps = 0 } = options;
  for (const [name, value] of Object.entries({ keep, warmupSteps })) {
    if (typeof value !== "number") {
      throw new TypeError(
        `Cannot create a budget pruner as "${name}" must be a number: current type is ${typeof value}`,
      );
    }
  }
  if (!(keep >= 0 && keep <= 1)) {
    throw new RangeError(
      `Cannot create a budget pruner as "keep" must be between 0 and 1: current value is ${keep}`,
    );
  }
  if (!Number.isInteger(warmupSteps) || warmupSteps < 0) {
    throw new RangeError(
      `Cannot create a budget pruner as "warmupSteps" must be an integer of at least 0: current value is ${warmupSteps}`,
    );
  }
  return {
    ...pruner,
    name: `${pruner.name} at ${Math.round(keep * 100)} %`,
    async decide(
      input: PrunerInput,
      before: State,
      context: PrunerContext,
    ): Promise<[PrunerDecision, State]> {
      const [{ scores }, state] = await pruner.decide(input, before, context);
      const size = context.layers * context.heads;
      const mask = new Uint8Array(size);
      if (scores === undefined || input.step < warmupSteps) {
        return [{ mask, ...(scores && { scores }) }, state];
      }
      const order = Uint32Array.from(mask, (_, i) => i).sort((i, j) => scores[i]! - scores[j]! || i - j);
      for (const i of order.subarray(0, size - Math.round(keep * size))) mask[i] = 1;
      return [{ mask, scores }, state];
    },
  };
}
