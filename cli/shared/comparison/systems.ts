/**
 * Which systems a comparison has, and which pruners stand beside the table.
 *
 * @module
 */

import { permutation, type Predictor, type Pruner, type PrunerContext, randomStream } from "@edgetuner/core";
import { type Engine, greedyPruneOnGpu } from "@edgetuner/kernels";
import {
  budgetPruner,
  dloraPruner,
  gradientPruner,
  greedyPruner,
  type GreedyPrunerOptions,
  iHeadPruner,
  type IHeadPrunerOptions,
  magnitudePruner,
  noPruner,
  oraclePruner,
} from "@edgetuner/plugins";
import { unknownName } from "../../flags/suggest.ts";
import { UsageError } from "../../flags/flags.ts";
import type { System } from "../compared_systems.ts";

/** The systems, in the order in which they run: some need what those before them took. */
export const SYSTEMS = ["ServerTuner", "EdgeTuner", "DLoRA", "vEdgeTuner", "TPTensor"] as const;

/** A system's name. */
export type SystemName = typeof SYSTEMS[number];

/** Kept shares at which the pruners are compared. */
const BUDGETS = [0.25, 0.5, 0.75];
/** Unpruned steps at the start, for every pruner of that comparison. */
export const WARM_UP = 12;

/** A pruner beside the table, at one value of what is varied. */
export interface Trial {
  /** What is varied, or which pruner. */
  readonly name: string;
  /** Its value. */
  readonly x: number;
  /** The pruner. */
  readonly pruner: Pruner;
}

/**
 * The systems of a list, in the order in which they run.
 *
 * @throws {UsageError} If one is not known.
 */
export function systemsOf(list: string): SystemName[] {
  const wanted = list.split(",").map((name) => name.trim());
  const unknown = wanted.find((name) => !SYSTEMS.some((s) => s === name));
  if (unknown !== undefined) {
    throw new UsageError(
      `Cannot compare as --systems must be some of ${SYSTEMS.join(", ")}: ${unknownName(unknown, SYSTEMS)}`,
    );
  }
  return SYSTEMS.filter((name) => wanted.includes(name));
}

/** Makes the pruners of the table and of the study. */
export function makeRules(engine: Engine, predictor: Predictor) {
  const compute: NonNullable<GreedyPrunerOptions["compute"]> = (args) => greedyPruneOnGpu(engine, args);
  return {
    predicted: (options: IHeadPrunerOptions) => iHeadPruner({ compute, predictor, ...options }) as Pruner,
    measured: (options: GreedyPrunerOptions) => greedyPruner({ compute, ...options }) as Pruner,
  };
}

/** The pruners of the table and of the study. */
export type Rules = ReturnType<typeof makeRules>;

/** What takes part under a name. */
export function systemOf(
  name: SystemName,
  rules: Rules,
  { tau, eta }: { readonly tau: number; readonly eta: number },
): System {
  switch (name) {
    case "ServerTuner":
      return { kind: "serverTuner" };
    case "TPTensor":
      return { kind: "tensorParallel" };
    case "vEdgeTuner":
      return { kind: "split", pruner: noPruner() };
    case "DLoRA":
      return { kind: "split", pruner: dloraPruner() };
    case "EdgeTuner":
      return { kind: "split", pruner: rules.predicted({ tau, eta }) };
  }
}

/** DLoRA's share after its unpruned steps, so that over all steps it keeps `share` of the heads, or as near as it can. */
export function activeFractionFor(share: number, steps: number): number {
  const unpruned = Math.min(WARM_UP, steps - 1);
  return Math.min(1, Math.max(0.01, (share * steps - unpruned) / (steps - unpruned)));
}

/** Every pruner at every budget of bytes: after the unpruned steps no step may take more than this share of theirs. */
export function labOf(
  rules: Rules,
  cost: (mask: Uint8Array, context: PrunerContext) => number,
): Trial[] {
  const scored: readonly [string, (keep: number) => Pruner][] = [
    ["iHeadPruner", () => rules.predicted({})],
    ["greedy", () => rules.measured({})],
    ["gradient", (keep) => gradientPruner({ keep }) as Pruner],
    ["magnitude", (keep) => magnitudePruner({ keep }) as Pruner],
    ["oracle (not deployable)", (keep) => oraclePruner({ keep }) as Pruner],
    ["random", () => RANDOM_SCORES],
    // Its choice is its mask: scores only say which of the heads that it keeps goes first.
    ["DLoRA", (keep) => dloraPruner({ activeFraction: keep, warmupSteps: WARM_UP, period: 20 }) as Pruner],
  ];
  return BUDGETS.flatMap((keep) =>
    scored.map(([name, make]) => ({
      name,
      x: keep,
      pruner: budgetPruner({
        ...{ pruner: make(keep), keep, cost, warmupSteps: WARM_UP },
        keptFirst: name === "DLoRA",
      }) as Pruner,
    }))
  );
}

/** Knows nothing of the heads. */
export const RANDOM_SCORES: Pruner = {
  name: "random",
  needs: [],
  init: () => null,
  decide({ step }, state, { layers, heads, seed }) {
    const draws = permutation(layers * heads, randomStream(seed, step));
    return [{ mask: new Uint8Array(layers * heads), scores: Float32Array.from(draws) }, state];
  },
};

/** METHOD's parameters one at a time; lambda and K belong to a predictor's training, so theirs are the measured rules. */
export function studyOf(
  { predicted, measured }: Rules,
  { tau, eta }: { readonly tau: number; readonly eta: number },
): Trial[] {
  const of = (name: string, values: readonly number[], make: (x: number) => Pruner) =>
    values.map((x) => ({ name, x, pruner: make(x) }));
  return [
    ...of("tau", [0.3, 0.5, 0.7, 0.9], (x) => predicted({ tau: x, eta })),
    ...of("eta", [0.2, 0.4, 0.6, 1], (x) => predicted({ tau, eta: x })),
    ...of("rho", [0, 0.2, 1], (x) => predicted({ tau, eta, rho: x })),
    ...of("beta", [0, 0.3, 1], (x) => predicted({ tau, eta, beta: x })),
    ...of("lambda", [0.2, 0.5, 0.8, 1], (x) => measured({ tau, eta, lambda: x, warmupSteps: WARM_UP })),
    // The unpruned steps at the start are K by default: here as many for each.
    ...of("K", [1, 5, 10, 20], (x) => measured({ tau, eta, history: x, warmupSteps: WARM_UP })),
  ];
}
