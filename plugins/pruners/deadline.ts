/**
 * Pruning to a budget of seconds or bytes a step: the heads of greatest importance that measured links can afford.
 *
 * L = layers, H = heads per layer, M = user devices.
 *
 * @module
 */

import {
  type LinkStatistics,
  numberCheck,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
} from "@edgetuner/core/contracts";
import { observe, restAfter } from "./_greedy_rules.ts";
import { chooseOptions, type LayerOption } from "./_knapsack.ts";

/** Options of {@linkcode deadlinePruner}. One budget at least must be given. */
export interface DeadlinePrunerOptions {
  /** Seconds that a step may take on average. @default {no limit} */
  readonly secondsPerStep?: number;
  /** Bytes that a step may put on the wire, both directions and all devices together. @default {no limit} */
  readonly bytesPerStep?: number;
  /**
   * Steps in which importance and prices are learnt, counted from step 0: every head is kept in the first, in the others
   * every second one in turns. They do not keep to the budget, nor does a run that measures no links.
   *
   * @default {3}
   */
  readonly warmupSteps?: number;
  /** lambda: weight of the newest step in the smoothing of importance, above 0, at most 1. @default {0.3} */
  readonly lambda?: number;
  /** Share of the way to the mean that a pruned head's held importance moves per step, in [0, 1]. @default {0.02} */
  readonly recovery?: number;
  /** Steps in a row after which a pruned head goes before all others; `Infinity` = no bound. @default {20} */
  readonly maxRest?: number;
}

/** State of {@linkcode deadlinePruner}: plain data. */
export interface DeadlineState {
  /** Smoothed importance, [L * H]; `null` before any was seen. */
  readonly importance: Float32Array | null;
  /** Steps in a row that each head has been pruned, [L * H]. */
  readonly rest: Uint32Array;
  /** What a step costs beside its heads, by the last steps; `null` before the first. */
  readonly fixed: { readonly seconds: number; readonly bytes: number } | null;
  /** Seconds that the last steps took more than the budget, those long ago counting less. */
  readonly late: number;
}

/** Seconds and bytes. */
interface Cost {
  readonly seconds: number;
  readonly bytes: number;
}

/** Weight of the newest step in what a step costs beside its heads. */
const FIXED_WEIGHT = 0.4;
/** Share of the lateness so far that the next step is to make up for, and what is left of it a step later. */
const MAKE_UP = 0.3;
const LATE_MEMORY = 0.9;
/** Share of the budget that a step may be planned to take over it, after steps that took less. */
const MOST_OVER = 0.1;

/**
 * A pruner that holds a budget of seconds or bytes a step.
 *
 * In each step
 * 1. importance is that of the last steps' gradients, min-max normalised and smoothed; of a pruned head it is held and
 *    drifts to the mean. A head that has rested `maxRest` steps counts as much as the most important one.
 * 2. A layer in which a head is kept costs its two questions: as many round trips of the slowest device that has a kept
 *    head in it. Each head costs what the edge server has measured on its device's link (`LinkStatistics`).
 * 3. What a step costs beside that is what the last steps took more than their masks explain.
 * 4. A knapsack gives the mask of greatest importance within the budget, less a part of what the last steps were late.
 *
 * So whole layers go where latency rules, and single heads where bandwidth rules. At least one head is kept, also where
 * the budget does not allow it. `figures` of a decision say what is given up: `headsGivenUp`, `layersGivenUp`,
 * `importanceGivenUp` (a share), and what the step is taken to cost (`secondsExpected`, `bytesExpected`).
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { deadlinePruner } from "@edgetuner/plugins";
 *
 * const pruner = deadlinePruner({ secondsPerStep: 0.5 });
 * console.log(pruner.needs); // ["gradientNorm", "links"]
 * ```
 *
 * @returns A pruner named `"deadline"` that needs `gradientNorm` and `links`.
 * @throws {RangeError} If an option is out of range, or no budget is given.
 * @throws {TypeError} If an option has the wrong type.
 */
export function deadlinePruner(options: DeadlinePrunerOptions): Pruner<DeadlineState> {
  const { secondsPerStep = Infinity, bytesPerStep = Infinity } = options;
  const { warmupSteps = 3, lambda = 0.3, recovery = 0.02, maxRest = 20 } = options;
  const check = numberCheck("create the deadline pruner");
  check("secondsPerStep", secondsPerStep, "above 0", (x) => x > 0);
  check("bytesPerStep", bytesPerStep, "above 0", (x) => x > 0);
  check("warmupSteps", warmupSteps, "an integer of at least 1", (x) => Number.isSafeInteger(x) && x >= 1);
  check("lambda", lambda, "above 0 and at most 1", (x) => x > 0 && x <= 1);
  check("recovery", recovery, "between 0 and 1", (x) => x >= 0 && x <= 1);
  check(
    "maxRest",
    maxRest,
    "a positive integer or Infinity",
    (x) => x > 0 && (Number.isInteger(x) || x === Infinity),
  );
  if (secondsPerStep === Infinity && bytesPerStep === Infinity) {
    throw new RangeError(
      "Cannot create the deadline pruner as secondsPerStep or bytesPerStep must be given: neither is",
    );
  }
  const budget: Cost = { seconds: secondsPerStep, bytes: bytesPerStep };
  return {
    name: "deadline",
    prunedFade: 0.9,
    needs: ["gradientNorm", "links"],
    init: ({ layers, heads }: PrunerContext): DeadlineState => ({
      importance: null,
      rest: new Uint32Array(layers * heads),
      fixed: null,
      late: 0,
    }),
    decide(
      input: PrunerInput,
      before: DeadlineState,
      context: PrunerContext,
    ): [PrunerDecision, DeadlineState] {
      const seen = observe(input, before.importance, context, { lambda, recovery });
      const importance = seen?.importance ?? before.importance;
      const rest = restAfter(before.rest, input);
      const { links = null, step, lastMask } = input;
      const learning = step < warmupSteps || links === null || importance === null || lastMask === null;
      if (learning) {
        const mask = step < warmupSteps ? learningMask(step, context) : new Uint8Array(before.rest.length);
        return [{ mask }, { ...before, importance, rest }];
      }
      const prices = new Prices(links, context);
      const fixed = fixedCost(before.fixed, links, prices.of(lastMask));
      const late = step === warmupSteps ? 0 : lateness(before.late, links, budget);
      const state = { importance, rest, fixed, late };
      const room = {
        seconds: Math.max(1e-6 * budget.seconds, budget.seconds - dueOf(late, budget) - fixed.seconds),
        bytes: Math.max(1e-6 * budget.bytes, budget.bytes - fixed.bytes),
      };
      const worth = importance.map((s, i) => rest[i]! >= maxRest ? 1 : Math.min(1, Math.max(s, 1e-6)));
      const mask = prices.choose(worth, room);
      const expected = prices.of(mask);
      return [{
        mask,
        scores: importance.slice(),
        figures: {
          ...givenUp(mask, importance, context),
          secondsExpected: fixed.seconds + expected.seconds,
          bytesExpected: fixed.bytes + expected.bytes,
        },
      }, state];
    },
  };
}

/** Every head at first, then every second one, the others in the next step. */
function learningMask(step: number, { layers, heads }: PrunerContext): Uint8Array {
  return Uint8Array.from({ length: layers * heads }, (_, i) => {
    const l = Math.floor(i / heads);
    return step === 0 || heads === 1 ? 0 : (i % heads + l + step) % 2;
  });
}

/** What the last step cost more than its mask explains, smoothed. */
function fixedCost(before: Cost | null, { lastStep }: LinkStatistics, explained: Cost): Cost {
  const now = {
    seconds: Math.max(0, lastStep.seconds - explained.seconds),
    bytes: Math.max(0, lastStep.bytes - explained.bytes),
  };
  if (before === null) return now;
  const mixed = (a: number, b: number) => a + FIXED_WEIGHT * (b - a);
  return { seconds: mixed(before.seconds, now.seconds), bytes: mixed(before.bytes, now.bytes) };
}

/** Seconds that the next step is to make up for; nothing is planned to take much longer than the budget. */
function dueOf(late: number, { seconds }: Cost): number {
  return seconds === Infinity ? 0 : Math.max(-MOST_OVER * seconds, MAKE_UP * late);
}

/** What the last steps took too long; time that was to spare is not saved up for more than half a step. */
function lateness(before: number, { lastStep }: LinkStatistics, { seconds }: Cost): number {
  if (seconds === Infinity) return 0;
  return Math.max(-0.5 * seconds, Math.min(2 * seconds, LATE_MEMORY * before + lastStep.seconds - seconds));
}

/** What a mask leaves out. */
function givenUp(mask: Uint8Array, importance: Float32Array, { layers, heads }: PrunerContext) {
  let pruned = 0, lost = 0, all = 0;
  mask.forEach((z, i) => {
    pruned += z;
    lost += z * importance[i]!;
    all += importance[i]!;
  });
  let whole = 0;
  for (let l = 0; l < layers; l++) {
    if (mask.subarray(l * heads, (l + 1) * heads).every((z) => z === 1)) whole++;
  }
  return { headsGivenUp: pruned, layersGivenUp: whole, importanceGivenUp: all > 0 ? lost / all : 0 };
}

/** What masks cost on measured links. */
class Prices {
  readonly #context: PrunerContext;
  /** Of each device: seconds of a layer's questions, and of each head in it. */
  readonly #seconds: readonly { readonly layer: number; readonly head: number }[];
  readonly #bytesPerHead: number;
  readonly #bytesPerDevice: number;
  /** Device of each head. */
  readonly #owners: readonly number[];

  constructor({ devices, bytesPerHead, bytesPerDevice }: LinkStatistics, context: PrunerContext) {
    this.#context = context;
    const known = devices.filter((link) => link !== null);
    const mean = (f: (link: typeof known[number]) => number) =>
      known.reduce((sum, link) => sum + f(link), 0) / Math.max(1, known.length);
    this.#seconds = context.headsPerDevice.map((_, m) => {
      const link = devices[m] ?? null;
      const of = (f: (link: typeof known[number]) => number) => link === null ? mean(f) : f(link);
      return {
        layer: 2 * of((d) => d.roundTripSeconds),
        head: of(({ secondsPerHead: { forward, backward } }) => forward + backward),
      };
    });
    this.#bytesPerHead = bytesPerHead.down + bytesPerHead.up;
    this.#bytesPerDevice = bytesPerDevice;
    this.#owners = context.headsPerDevice.flatMap((count, m) => Array<number>(count).fill(m));
  }

  /** What the questions of a mask's layers cost. */
  of(mask: Uint8Array): Cost {
    const { layers, heads } = this.#context;
    let seconds = 0, bytes = 0;
    for (let l = 0; l < layers; l++) {
      const kept = this.#owners.flatMap((_, h) => mask[l * heads + h] ? [] : [h]);
      const cost = this.#ofLayer(kept);
      seconds += cost.seconds;
      bytes += cost.bytes;
    }
    return { seconds, bytes };
  }

  /** The mask of greatest worth within what there is to spend. */
  choose(worth: Float32Array, room: Cost): Uint8Array {
    const { layers, heads } = this.#context;
    // With two budgets a layer costs the larger share of either.
    const share = ({ seconds, bytes }: Cost) => Math.max(seconds / room.seconds, bytes / room.bytes);
    const options = Array.from(
      { length: layers },
      (_, l) => this.#options(worth.subarray(l * heads, (l + 1) * heads), share),
    );
    let chosen = chooseOptions(options.map((layer) => layer.filter(({ cost }) => cost <= 1)), 1);
    if (chosen.every((option) => option === null)) chosen = leastOf(options);
    const mask = new Uint8Array(layers * heads).fill(1);
    chosen.forEach((option, l) => option?.heads.forEach((h) => mask[l * heads + h] = 0));
    return mask;
  }

  #ofLayer(kept: readonly number[]): Cost {
    const counts = new Map<number, number>();
    for (const h of kept) counts.set(this.#owners[h]!, (counts.get(this.#owners[h]!) ?? 0) + 1);
    let seconds = 0;
    for (const [m, n] of counts) {
      seconds = Math.max(seconds, this.#seconds[m]!.layer + n * this.#seconds[m]!.head);
    }
    return { seconds, bytes: counts.size * this.#bytesPerDevice + kept.length * this.#bytesPerHead };
  }

  /** Ways to keep something of a layer: by head for bytes, and by what the slowest device may take for seconds. */
  #options(worth: Float32Array, share: (cost: Cost) => number): LayerOption[] {
    const ranked = [...worth.keys()].sort((a, b) => worth[b]! - worth[a]! || a - b);
    const option = (heads: readonly number[]): LayerOption => ({
      cost: share(this.#ofLayer(heads)),
      value: heads.reduce((sum, h) => sum + worth[h]!, 0),
      heads,
    });
    const byHead = ranked.map((_, n) => option(ranked.slice(0, n + 1)));
    const levels = new Set<number>();
    this.#context.headsPerDevice.forEach((count, m) => {
      for (let n = 1; n <= count; n++) levels.add(this.#seconds[m]!.layer + n * this.#seconds[m]!.head);
    });
    const byTime = [...levels].map((level) => {
      const left = this.#seconds.map(({ layer, head }) =>
        ((level - layer) * (1 + 1e-9)) / Math.max(head, 1e-12)
      );
      return option(ranked.filter((h) => left[this.#owners[h]!]!-- >= 1));
    });
    return [...byHead, ...byTime].filter(({ heads }) => heads.length > 0);
  }
}

/** Where nothing is affordable: of the layers' cheapest options the one that is worth most for what it costs. */
function leastOf(options: readonly (readonly LayerOption[])[]): (LayerOption | null)[] {
  const cheapest = options.map((layer) => layer.toSorted((a, b) => a.cost - b.cost)[0] ?? null);
  const rate = (option: LayerOption | null) => option === null ? -1 : option.value / option.cost;
  const best = cheapest.reduce((at, option, l) => rate(option) > rate(cheapest[at]!) ? l : at, 0);
  return cheapest.map((option, l) => l === best ? option : null);
}
