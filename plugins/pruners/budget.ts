/**
 * Any pruner's scores under a fixed budget, so that pruners can be compared at equal traffic.
 *
 * L = layers, H = heads per layer.
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

/** Options of {@linkcode budgetPruner}. */
export interface BudgetPrunerOptions<State> {
  /** Whose scores say which heads matter. */
  readonly pruner: Pruner<State>;
  /** Share of the budget, in [0, 1]: of all L * H head modules, rounded to whole ones, or of what they `cost`. */
  readonly keep: number;
  /**
   * What a step with a mask costs, such as its bytes on the wire; it must not fall when a head is added. A step
   * then costs at most `keep` of what it costs with every head.
   *
   * @param mask z, [L * H], 1 = pruned.
   * @default {the number of kept heads}
   */
  readonly cost?: (mask: Uint8Array, context: PrunerContext) => number;
  /** True if heads that the other pruner keeps come before those that it prunes, whatever their scores. @default {false} */
  readonly keptFirst?: boolean;
  /** Steps in which every head is kept, counted from step 0. @default {0} */
  readonly warmupSteps?: number;
}

/**
 * A pruner that keeps the heads with the highest scores of another one: as many in every step as the budget
 * allows, over all layers together; one that would cost too much is passed over. As long as the other one gives
 * no scores, every head is kept.
 *
 * @category Pruners
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
  const { pruner, keep, cost, keptFirst = false, warmupSteps = 0 } = options;
  const check = numberCheck("create a budget pruner");
  check("keep", keep, "between 0 and 1", (x) => x >= 0 && x <= 1);
  check("warmupSteps", warmupSteps, "an integer of at least 0", (x) => Number.isInteger(x) && x >= 0);
  return {
    ...pruner,
    name: `${pruner.name} at ${Math.round(keep * 100)} %`,
    async decide(
      input: PrunerInput,
      before: State,
      context: PrunerContext,
    ): Promise<[PrunerDecision, State]> {
      const [{ scores, mask: own }, state] = await pruner.decide(input, before, context);
      const size = context.layers * context.heads;
      const mask = new Uint8Array(size);
      if (scores === undefined || input.step < warmupSteps) {
        return [{ mask, ...(scores && { scores }) }, state];
      }
      const limit = cost === undefined ? Math.round(keep * size) : keep * cost(mask, context);
      const rank = (i: number) => keptFirst ? own[i]! : 0;
      const order = Uint32Array.from(mask, (_, i) => i)
        .sort((i, j) => rank(i) - rank(j) || scores[j]! - scores[i]! || j - i);
      mask.fill(1);
      let kept = 0;
      for (const i of order) {
        mask[i] = 0;
        if ((cost?.(mask, context) ?? kept + 1) <= limit) kept++;
        else mask[i] = 1;
      }
      return [{ mask, scores }, state];
    },
  };
}
