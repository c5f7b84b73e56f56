/**
 * What greedy pruners share: their options, how a step's gradients become a map of smoothed importance, and
 * how S_base becomes a head mask.
 *
 * L = layers, H = heads per layer, M = user devices, K = history length.
 *
 * @module
 */

import {
  type GreedyCompute,
  greedyPrune,
  type GreedyPruneResult,
  minMaxNormalise,
  smoothImportance,
} from "@edgetuner/core";
import {
  numberCheck,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "@edgetuner/core/contracts";

/** Options of `greedyPruner`, and of every pruner that uses its rules. */
export interface GreedyPrunerOptions {
  /** tau: share of a layer's importance that is to remain, in [0, 1] (Eq. 30). @default {0.7} */
  readonly tau?: number;
  /** eta: share of pruned heads above which a layer is pruned whole, in [0, 1]; 1 = never. @default {0.4} */
  readonly eta?: number;
  /** rho: how strongly a weak device's heads count less, 0 or more (Eq. 29). @default {0.2} */
  readonly rho?: number;
  /** beta: how much dearer a device's heads get as it loses heads, 0 or more (Eq. 29). @default {0.3} */
  readonly beta?: number;
  /** alpha: scale of the importance, above 0; changes the scores, never the mask (Eq. 29). @default {1} */
  readonly alpha?: number;
  /** lambda: weight of the newest step in the smoothing, above 0, at most 1. @default {0.8} */
  readonly lambda?: number;
  /** K: number of smoothed maps whose mean is S_base, in steps. @default {10} */
  readonly history?: number;
  /** Steps in which every head is kept, counted from step 0. @default {`history`} */
  readonly warmupSteps?: number;
  /**
   * Share of the way to the mean of the observed heads of its layer (of all layers, if its whole
   * layer is pruned) that a pruned head's held importance moves per step, in [0, 1]. *Our reading.*
   *
   * @default {0.1}
   */
  readonly recovery?: number;
  /**
   * Steps in a row after which a pruned head is kept for one step, 1 or more; `Infinity` = no bound.
   * *Our reading.*
   *
   * @default {20}
   */
  readonly maxRest?: number;
  /**
   * Share of the layers, rounded down, that may be pruned whole in one step, in [0, 1]; 1 = no bound.
   * *Our reading.*
   *
   * @default {0.25}
   */
  readonly maxLayerShare?: number;
  /** Implementation of Eq. 30, such as a GPU kernel. @default {greedyPrune} */
  readonly compute?: GreedyCompute;
}

/** All options, with defaults filled in. */
export type GreedySettings = Required<GreedyPrunerOptions>;

function validate(name: string, options: GreedySettings): void {
  const checkNumber = numberCheck(`create the ${name} pruner`);
  const check = (option: keyof GreedySettings, rule: string, holds: (x: number) => boolean) =>
    checkNumber(option, options[option], rule, holds);
  for (const option of ["tau", "eta", "recovery", "maxLayerShare"] as const) {
    check(option, "between 0 and 1", (x) => x >= 0 && x <= 1);
  }
  for (const option of ["rho", "beta"] as const) {
    check(option, "finite and not negative", (x) => x >= 0 && x < Infinity);
  }
  check("alpha", "positive and finite", (x) => x > 0 && x < Infinity);
  check("lambda", "above 0 and at most 1", (x) => x > 0 && x <= 1);
  check("history", "a positive integer", (x) => Number.isSafeInteger(x) && x > 0);
  check(
    "maxRest",
    "a positive integer or Infinity",
    (x) => (Number.isSafeInteger(x) || x === Infinity) && x > 0,
  );
  check("warmupSteps", "an integer that is not negative", (x) => Number.isSafeInteger(x) && x >= 0);
  if (typeof options.compute !== "function") {
    throw new TypeError(
      `Cannot create the ${name} pruner as "compute" must be a function: current type is ${typeof options
        .compute}`,
    );
  }
}

/**
 * Fills in the defaults and checks.
 *
 * @param name The pruner's name, for errors.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option has the wrong type.
 */
export function greedySettings(name: string, options: GreedyPrunerOptions): GreedySettings {
  const history = options.history ?? 10;
  const settings: GreedySettings = {
    tau: 0.7,
    eta: 0.4,
    rho: 0.2,
    beta: 0.3,
    alpha: 1,
    lambda: 0.8,
    warmupSteps: history,
    recovery: 0.1,
    maxRest: 20,
    maxLayerShare: 0.25,
    compute: greedyPrune,
    ...options,
    history,
  };
  validate(name, settings);
  return settings;
}

/** Mean of `values[i]` over the `i` in [from, to) that were observed; `NaN` if none was. */
function observedMean(values: Float32Array, hidden: Uint8Array, from: number, to: number): number {
  let sum = 0, count = 0;
  for (let i = from; i < to; i++) {
    if (hidden[i]) continue;
    sum += values[i]!;
    count++;
  }
  return sum / count;
}

/** What the last step has shown. */
export interface Observation {
  /** G, min-max normalised over the heads that were seen, [L * H]; 0 for the others. */
  readonly gradient: Float32Array;
  /** S, [L * H]: smoothed where seen; elsewhere held, drifting by `recovery`. */
  readonly importance: Float32Array;
  /** 1 for heads that were kept and whose gradient is finite, [L * H]. */
  readonly seen: Uint8Array;
}

/**
 * Takes in what the last step has shown: G is normalised over the heads that were kept and smoothed. A
 * pruned head has shown nothing: its S is held and drifts by `recovery` to the mean of the kept heads of
 * its layer. An entry that is not finite counts as not shown.
 *
 * @param input What the pruner is told.
 * @param previous S of the step before, [L * H]; `null` if there was none.
 * @returns `null` if nothing was shown.
 */
export function observe(
  { gradientNorm, lastMask }: PrunerInput,
  previous: Float32Array | null,
  { heads }: PrunerContext,
  { lambda, recovery }: Pick<GreedySettings, "lambda" | "recovery">,
): Observation | null {
  if (gradientNorm === null) return null;
  const hidden = Uint8Array.from(gradientNorm, (g, i) => lastMask?.[i] || !Number.isFinite(g) ? 1 : 0);
  if (hidden.every((z) => z === 1)) return null;
  const gradient = minMaxNormalise(gradientNorm, hidden);
  const s = smoothImportance(gradient, previous, lambda);
  const mean = observedMean(s, hidden, 0, s.length);
  for (let start = 0; start < s.length; start += heads) {
    const layerMean = observedMean(s, hidden, start, start + heads);
    const target = Number.isNaN(layerMean) ? mean : layerMean;
    for (let i = start; i < start + heads; i++) {
      if (!hidden[i]) continue;
      const held = previous?.[i] ?? target;
      s[i] = held + recovery * (target - held);
    }
  }
  return { gradient, importance: s, seen: hidden.map((z) => 1 - z) };
}

/** Steps in a row that each head has been pruned, the last one included, [L * H]. */
export function restAfter(rest: Uint32Array, { lastMask }: PrunerInput): Uint32Array {
  return rest.map((steps, i) => lastMask?.[i] ? steps + 1 : 0);
}

/**
 * From S_base to the mask: Eq. 29 and Eq. 30 on `compute`, the layer-wise rule, and heads that have rested
 * `maxRest` steps kept. The scores are S_comp.
 *
 * @param sBase S_base, [L * H].
 * @param rest As `restAfter` returns it.
 */
export async function decideGreedily(
  sBase: Float32Array,
  rest: Uint32Array,
  context: PrunerContext,
  settings: GreedySettings,
): Promise<PrunerDecision> {
  const { layers, heads, headsPerDevice, capacities } = context;
  const { alpha, rho, beta, tau, compute, maxRest } = settings;
  const { mask: greedy, sComp } = await compute({
    sBase,
    layers,
    heads,
    headsPerDevice,
    capacities,
    alpha,
    rho,
    beta,
    tau,
  });
  const mask = pruneLayersWithin({ mask: greedy, sBase, sComp }, context, settings);
  rest.forEach((steps, i) => {
    if (steps >= maxRest) mask[i] = 0;
  });
  return { mask, scores: sComp };
}

/**
 * The layer-wise rule with a bound on the layers: of those whose share of pruned heads is above eta,
 * the ones with the least importance are pruned whole. Any other layer keeps at least its most
 * important head.
 */
function pruneLayersWithin(
  { mask, sBase, sComp }: GreedyPruneResult & { readonly sBase: Float32Array },
  { layers, heads }: PrunerContext,
  { eta, maxLayerShare }: GreedySettings,
): Uint8Array {
  const result = mask.slice();
  const sum = (map: Float32Array | Uint8Array, l: number) => {
    let total = 0;
    for (let i = l * heads; i < (l + 1) * heads; i++) total += map[i]!;
    return total;
  };
  const candidates = Array.from(
    { length: layers },
    (_, l) => ({ l, pruned: sum(mask, l), importance: sum(sBase, l) }),
  )
    .filter(({ pruned }) => pruned / heads > eta || pruned === heads)
    .sort((a, b) => a.importance - b.importance || a.l - b.l);
  candidates.forEach(({ l, pruned }, rank) => {
    const start = l * heads;
    if (rank < Math.floor(maxLayerShare * layers)) result.fill(1, start, start + heads);
    else if (pruned === heads) {
      const layer = sComp.subarray(start, start + heads);
      result[start + layer.indexOf(Math.max(...layer))] = 0;
    }
  });
  return result;
}
