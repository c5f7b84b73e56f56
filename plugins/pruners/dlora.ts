/**
 * DLoRA's Kill and Revive (arXiv 2404.05182): modules whose weights hardly change are killed, and
 * some come back at random. Metric, thresholds and period are not published: *our reading*
 * throughout, every number a parameter.
 *
 * L = layers, H = heads per layer.
 *
 * @module
 */

import { permutation, randomStream } from "@edgetuner/core";
import {
  numberCheck,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "@edgetuner/core/contracts";
import { isCount } from "./keep_share.ts";

/** Options of {@linkcode dloraPruner}. */
export interface DloraPrunerOptions {
  /** Steps in which every head is active, counted from step 0; then comes the first kill. @default {20} */
  readonly warmupSteps?: number;
  /** Steps from one kill to the next. @default {20} */
  readonly period?: number;
  /** Share of all L * H heads that stays active, above 0, at most 1; at least one head. @default {0.125} */
  readonly activeFraction?: number;
  /**
   * Share of the killed heads that is revived at each kill after the first, in [0, 1]; at most all
   * but one of the active heads.
   *
   * @default {0.05}
   */
  readonly reviveFraction?: number;
  /** Weight of the newest step in the smoothed change, above 0, at most 1. @default {0.1} */
  readonly smoothing?: number;
  /** Seed of the draw, a 32-bit unsigned integer. @default {the run's seed} */
  readonly seed?: number | undefined;
}

/** State of {@linkcode dloraPruner}: plain data. */
export interface DloraState {
  /** Smoothed relative change of each head since it became active, [L * H]; -1 = not yet seen. */
  readonly change: Float32Array;
  /** Killed heads, [L * H]: 1 = killed. */
  readonly killed: Uint8Array;
}

/**
 * A pruner that kills the heads whose weights change least and revives some at random.
 *
 * In each step the relative change of every active head's weights is smoothed. After `warmupSteps`
 * steps, and then every `period` steps,
 * 1. a share `reviveFraction` of the killed heads is revived at random (not at the first kill);
 * 2. of the heads that were active, those that changed least are killed until, with the revived
 *    ones, `activeFraction` of all heads are active. Heads that have not been seen yet, the revived
 *    ones among them, are not killed before they have had a period.
 *
 * So the kept share is the same in every step after the warm-up, a killed head neither computes nor
 * communicates, and a revived head is observed anew. As long as nothing was observed every head is
 * active. The scores are the smoothed changes.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { dloraPruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const pruner = dloraPruner({ activeFraction: 0.5, period: 10 });
 * assertEquals(pruner.needs, ["weightChange"]);
 * ```
 *
 * @returns A pruner named `"dlora"` that needs `weightChange`.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function dloraPruner(options: DloraPrunerOptions = {}): Pruner<DloraState> {
  const {
    warmupSteps = 20,
    period = 20,
    activeFraction = 1 / 8,
    reviveFraction = 0.05,
    smoothing = 0.1,
    seed,
  } = options;
  const check = numberCheck("create a DLoRA pruner");
  check("warmupSteps", warmupSteps, "an integer that is not negative", isCount);
  check("period", period, "a positive integer", (x) => isCount(x) && x > 0);
  check("activeFraction", activeFraction, "above 0 and at most 1", (x) => x > 0 && x <= 1);
  check("reviveFraction", reviveFraction, "between 0 and 1", (x) => x >= 0 && x <= 1);
  check("smoothing", smoothing, "above 0 and at most 1", (x) => x > 0 && x <= 1);
  if (seed !== undefined) {
    check("seed", seed, "a 32-bit unsigned integer", (x) => isCount(x) && x < 2 ** 32);
  }

  /** Revives and kills; `killed` and `change` are changed in place. */
  const reviveAndKill = (step: number, killed: Uint8Array, change: Float32Array, runSeed: number) => {
    const size = killed.length;
    const active = Math.max(1, Math.round(activeFraction * size));
    const dead = indices(killed, 1);
    const alive = indices(killed, 0);
    const revived = Math.min(Math.round(reviveFraction * dead.length), active - 1);
    const order = permutation(dead.length, randomStream(seed ?? runSeed, step));
    for (const k of order.subarray(0, revived)) {
      killed[dead[k]!] = 0;
      change[dead[k]!] = -1;
    }
    const unseenLast = (i: number) => change[i]! < 0 ? Number.MAX_VALUE : change[i]!;
    alive.sort((a, b) => unseenLast(a) - unseenLast(b) || b - a); // of equal ones the last goes first
    for (const i of alive.slice(0, Math.max(0, alive.length - (active - revived)))) killed[i] = 1;
  };

  return {
    name: "dlora",
    prunedFade: 0.9,
    needs: ["weightChange"],
    init: ({ layers, heads }: PrunerContext): DloraState => ({
      change: new Float32Array(layers * heads).fill(-1),
      killed: new Uint8Array(layers * heads),
    }),
    decide(
      { step, lastMask, weightChange = null }: PrunerInput,
      before: DloraState,
      context: PrunerContext,
    ): [PrunerDecision, DloraState] {
      const change = before.change.map((held, i) => {
        const seen = weightChange?.[i];
        if (seen === undefined || !Number.isFinite(seen) || lastMask?.[i]) return held;
        return held < 0 ? seen : held + smoothing * (seen - held);
      });
      const killed = before.killed.slice();
      const atKill = step >= warmupSteps && (step - warmupSteps) % period === 0;
      if (atKill && change.some((x) => x >= 0)) reviveAndKill(step, killed, change, context.seed);
      const scores = change.map((x) => Math.max(0, x));
      return [{ mask: killed.slice(), scores }, { change, killed }];
    },
  };
}

function indices(map: Uint8Array, value: number): number[] {
  const list: number[] = [];
  map.forEach((x, i) => {
    if (x === value) list.push(i);
  });
  return list;
}
