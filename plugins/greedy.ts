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

import {
  deviceWeights,
  type GreedyCompute,
  greedyPrune,
  minMaxNormalise,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  smoothImportance,
} from "@edgetuner/core";

/** Options of {@linkcode greedyPruner}. */
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

/** State of {@linkcode greedyPruner}: plain data. */
export interface GreedyState {
  /** Smoothed importance S of the last steps, oldest first, at most `history` maps of [L * H]. */
  readonly history: readonly Float32Array[];
  /** Steps in a row that each head has been pruned, [L * H]. */
  readonly rest: Uint32Array;
}

type Settings = Required<GreedyPrunerOptions>;

function validate(options: Settings): void {
  const check = (name: keyof Settings, rule: string, holds: (x: number) => boolean) => {
    const value: unknown = options[name];
    if (typeof value !== "number") {
      throw new TypeError(
        `Cannot create a greedy pruner as "${name}" must be a number: current type is ${typeof value}`,
      );
    }
    if (!holds(value)) {
      throw new RangeError(
        `Cannot create a greedy pruner as "${name}" must be ${rule}: current value is ${value}`,
      );
    }
  };
  for (const name of ["tau", "eta", "recovery", "maxLayerShare"] as const) {
    check(name, "between 0 and 1", (x) => x >= 0 && x <= 1);
  }
  for (const name of ["rho", "beta"] as const) {
    check(name, "finite and not negative", (x) => x >= 0 && x < Infinity);
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
      `Cannot create a greedy pruner as "compute" must be a function: current type is ${typeof options
        .compute}`,
    );
  }
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

/** Takes in what the last step has shown. */
function observe(
  input: PrunerInput,
  state: GreedyState,
  { heads }: PrunerContext,
  options: Settings,
): GreedyState {
  const { gradientNorm, lastMask } = input;
  const rest = state.rest.map((steps, i) => lastMask?.[i] ? steps + 1 : 0);
  if (gradientNorm === null) return { history: state.history, rest };
  const hidden = Uint8Array.from(gradientNorm, (g, i) => lastMask?.[i] || !Number.isFinite(g) ? 1 : 0);
  if (hidden.every((z) => z === 1)) return { history: state.history, rest };

  const previous = state.history.at(-1) ?? null;
  const s = smoothImportance(minMaxNormalise(gradientNorm, hidden), previous, options.lambda);
  const mean = observedMean(s, hidden, 0, s.length);
  for (let start = 0; start < s.length; start += heads) {
    const layerMean = observedMean(s, hidden, start, start + heads);
    const target = Number.isNaN(layerMean) ? mean : layerMean;
    for (let i = start; i < start + heads; i++) {
      if (!hidden[i]) continue;
      const held = previous?.[i] ?? target;
      s[i] = held + options.recovery * (target - held);
    }
  }
  return { history: [...state.history, s].slice(-options.history), rest };
}

/** S_base: mean of the maps, [L * H]. */
function meanOf(history: readonly Float32Array[]): Float32Array {
  return history[0]!.map((_, i) => history.reduce((sum, s) => sum + s[i]!, 0) / history.length);
}

/**
 * The layer-wise rule with a bound on the layers: of those whose share of pruned heads is above eta,
 * the ones with the least importance are pruned whole. Any other layer keeps at least its most
 * important head.
 */
function pruneLayersWithin(
  mask: Uint8Array,
  sBase: Float32Array,
  sComp: Float32Array,
  { layers, heads }: PrunerContext,
  { eta, maxLayerShare }: Settings,
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
  const history = options.history ?? 10;
  const settings: Settings = {
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
  validate(settings);
  const { alpha, rho, beta, tau, compute, warmupSteps, maxRest } = settings;

  return {
    name: "greedy",
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
      const { layers, heads, headsPerDevice, capacities } = context;
      const state = observe(input, before, context, settings);
      if (input.step < warmupSteps || state.history.length === 0) {
        return [{ mask: new Uint8Array(layers * heads) }, state];
      }
      const sBase = meanOf(state.history);
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
      const mask = pruneLayersWithin(greedy, sBase, sComp, context, settings);
      state.rest.forEach((steps, i) => {
        if (steps >= maxRest) mask[i] = 0;
      });
      return [{ mask, scores: sComp }, state];
    },
  };
}
