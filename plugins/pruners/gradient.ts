/**
 * Gradient pruning: the heads whose gradients were largest in the last step are kept.
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
import { checkKeep, isCount, keepMost, type KeepOptions } from "./keep_share.ts";

/** Options of {@linkcode gradientPruner}. */
export interface GradientPrunerOptions extends KeepOptions {
  /** Steps in which every head is kept, counted from step 0. @default {1} */
  readonly warmupSteps?: number;
  /**
   * Share of the way to the mean of the kept heads that a pruned head's held importance moves per
   * step, in [0, 1]. *Our reading.*
   *
   * @default {0.1}
   */
  readonly recovery?: number;
  /**
   * Steps in a row after which a pruned head goes before all others; `Infinity` = no bound.
   * *Our reading.*
   *
   * @default {20}
   */
  readonly maxRest?: number;
}

/** State of {@linkcode gradientPruner}: plain data. */
export interface GradientState {
  /** Importance, [L * H]: G of the last step, and what is held for pruned heads. */
  readonly importance: Float32Array | null;
  /** Steps in a row that each head has been pruned, [L * H]. */
  readonly rest: Uint32Array;
}

/**
 * A pruner that keeps the share `keep` of the heads with the largest gradient importance of the last
 * step: no history, no prediction, no regard to devices.
 *
 * A pruned head shows no gradient. Its last importance is held, changes in proportion as those of the
 * kept heads do, since gradients shrink over a run, and drifts by `recovery` to their mean; after
 * `maxRest` steps the head goes before all others, the one longest away first. The share that is
 * kept is the same in every step. Every head is kept in the first `warmupSteps` steps and as long as
 * no gradients are known. The scores are the importances.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { gradientPruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const pruner = gradientPruner({ keep: 0.25, scope: "layer" });
 * assertEquals(pruner.needs, ["gradientNorm"]);
 * ```
 *
 * @returns A pruner named `"gradient"` that needs `gradientNorm`.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function gradientPruner(options: GradientPrunerOptions = {}): Pruner<GradientState> {
  const { warmupSteps = 1, recovery = 0.1, maxRest = 20 } = options;
  const me = "a gradient pruner";
  const kept = checkKeep(me, options);
  const check = numberCheck(`create ${me}`);
  check("warmupSteps", warmupSteps, "an integer that is not negative", isCount);
  check("recovery", recovery, "between 0 and 1", (x) => x >= 0 && x <= 1);
  check(
    "maxRest",
    maxRest,
    "a positive integer or Infinity",
    (x) => x > 0 && (isCount(x) || x === Infinity),
  );
  return {
    name: "gradient",
    prunedFade: 0.9,
    needs: ["gradientNorm"],
    init: ({ layers, heads }: PrunerContext): GradientState => ({
      importance: null,
      rest: new Uint32Array(layers * heads),
    }),
    decide(
      input: PrunerInput,
      before: GradientState,
      context: PrunerContext,
    ): [PrunerDecision, GradientState] {
      const rest = before.rest.map((steps, i) => input.lastMask?.[i] ? steps + 1 : 0);
      const importance = observe(input, before.importance, recovery);
      const state = { importance, rest };
      if (input.step < warmupSteps || importance === null) {
        return [{ mask: new Uint8Array(context.layers * context.heads) }, state];
      }
      const due = rest.map((steps) => steps >= maxRest ? steps : 0);
      return [{ mask: keepMost(importance, context, kept, due), scores: importance.slice() }, state];
    },
  };
}

/** Takes in what the last step has shown; entries that are not finite count as not shown. */
function observe(
  { gradientNorm, lastMask }: PrunerInput,
  previous: Float32Array | null,
  recovery: number,
): Float32Array | null {
  if (gradientNorm === null) return previous;
  const shown = (_: number, i: number) => !lastMask?.[i] && Number.isFinite(gradientNorm[i]!);
  const observed = gradientNorm.filter(shown);
  if (observed.length === 0) return previous;
  const sum = (values: Float32Array) => values.reduce((a, b) => a + b, 0);
  const mean = sum(observed) / observed.length;
  const largest = observed.reduce((a, b) => Math.max(a, b), 0);
  // How the heads that were kept have changed: the others are taken to have changed alike.
  const before = previous === null ? 0 : sum(previous.filter(shown));
  const change = before === 0 ? 1 : sum(observed) / before;
  return gradientNorm.map((g, i) => {
    if (shown(g, i)) return g;
    const held = previous === null ? mean : Math.min(largest, previous[i]! * change);
    return held + recovery * (mean - held);
  });
}
