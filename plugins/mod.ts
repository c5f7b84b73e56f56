/**
 * Pruners: which head modules a fine-tuning step leaves out.
 *
 * | Factory | Rule |
 * | --- | --- |
 * | {@linkcode greedyPruner} | EdgeTuner's rule on measured gradients: Eq. 29, Eq. 30, layer-wise rule |
 * | {@linkcode iHeadPruner} | the same rule on predicted importance (Eq. 25), trained before or during the run |
 * | {@linkcode randomPruner} | a fixed share at random: the baseline that importance has to beat |
 * | {@linkcode magnitudePruner} | a given share: the heads whose LoRA weights have grown most |
 * | {@linkcode gradientPruner} | a given share: the heads whose gradients were largest in the last step |
 * | {@linkcode deadlinePruner} | a budget of seconds or bytes a step: what measured links can afford of the most important heads |
 * | {@linkcode dloraPruner} | DLoRA's Kill and Revive: the heads whose weights change least are killed, some come back |
 * | {@linkcode oraclePruner} | a given share by this step's true importance: a yardstick, not deployable |
 * | {@linkcode budgetPruner} | another pruner's scores at a fixed kept share |
 * | {@linkcode heldPruner} | another pruner's masks, each held for some steps |
 * | {@linkcode collectingPruner} | everything is kept, and what the steps show is written down to train a predictor |
 * | {@linkcode noPruner} | everything is kept: vEdgeTuner |
 *
 * Each factory returns a plain object that implements `Pruner` of `@edgetuner/core`. Your own does the
 * same: it needs a name, the statistics it reads, `init` and `decide`.
 *
 * @example
 * ```ts
 * import { greedyPruner } from "@edgetuner/plugins";
 *
 * const pruner = greedyPruner({ tau: 0.8, eta: 1 });
 * console.log(pruner.name, pruner.needs);
 * ```
 *
 * @module
 */

export type { KeepOptions, KeepScope } from "./pruners/keep_share.ts";
export { budgetPruner, type BudgetPrunerOptions } from "./pruners/budget.ts";
export { collectingPruner, type CollectingPrunerOptions, type CollectingState } from "./pruners/collect.ts";
export { deadlinePruner, type DeadlinePrunerOptions, type DeadlineState } from "./pruners/deadline.ts";
export { dloraPruner, type DloraPrunerOptions, type DloraState } from "./pruners/dlora.ts";
export { gradientPruner, type GradientPrunerOptions, type GradientState } from "./pruners/gradient.ts";
export { greedyPruner, type GreedyPrunerOptions, type GreedyState } from "./pruners/greedy.ts";
export { heldPruner, type HeldPrunerOptions, type HeldState } from "./pruners/held.ts";
export {
  iHeadPruner,
  type IHeadPrunerOptions,
  type IHeadPrunerState,
  type OnlineTraining,
} from "./pruners/ihead_pruner.ts";
export { magnitudePruner, type MagnitudePrunerOptions } from "./pruners/magnitude.ts";
export { noPruner } from "./pruners/none.ts";
export { oraclePruner, type OraclePrunerOptions } from "./pruners/oracle.ts";
export { randomPruner, type RandomPrunerOptions } from "./pruners/random.ts";
