/**
 * Pruners by name, or from a module of the user's own.
 *
 * @module
 */

import {
  dloraPruner,
  gradientPruner,
  greedyPruner,
  iHeadPruner,
  magnitudePruner,
  noPruner,
  oraclePruner,
  randomPruner,
} from "@edgetuner/plugins";
import { loadPredictor, predictorTrainer, type Pruner } from "@edgetuner/core";
import { type Engine, pruneGreedily } from "@edgetuner/kernels";
import { UsageError } from "./flags.ts";

/** Pruners that keep a given share of the heads: `options.keep`. */
export const SHARE_PRUNERS: Readonly<Record<string, (keep: { readonly keep?: number }) => Pruner>> = {
  magnitude: (keep) => magnitudePruner(keep) as Pruner,
  gradient: (keep) => gradientPruner(keep) as Pruner,
  oracle: (keep) => oraclePruner(keep) as Pruner,
  dlora: ({ keep }) => dloraPruner(keep === undefined ? {} : { activeFraction: keep }) as Pruner,
};

/** Names of all pruners that come with the library, for `--help`. */
export const PRUNER_NAMES = [
  ...["none", "greedy", "iheadpruner", "iheadpruner-online", "random"],
  ...Object.keys(SHARE_PRUNERS),
];

/** Which pruner, and its parameters; plain data, so that it can go to a worker. */
export interface PrunerChoice {
  /** One of `PRUNER_NAMES`, or the URL of a module whose default export is a factory. */
  readonly name: string;
  /** Parameters for the factory. */
  readonly options: Readonly<Record<string, number>>;
  /** Folder of the predictor, for `iheadpruner`. */
  readonly predictor?: string;
}

/** The predictor that comes with the examples, for `examples/tiny_gpt2` on devices of capacities 8 : 5 : 3. */
export const DEMO_PREDICTOR = new URL("../demo_predictor", import.meta.url).pathname;

/**
 * Makes the pruner. The greedy one decides on the GPU.
 *
 * @throws {UsageError} If the name is unknown, or the module does not load or export a factory.
 */
export async function makePruner(
  { name, options, predictor }: PrunerChoice,
  engine: Engine,
): Promise<Pruner> {
  if (name === "none") return noPruner() as Pruner;
  if (name === "greedy") {
    return greedyPruner({
      ...options,
      compute: (args) => pruneGreedily(engine, args),
    }) as Pruner;
  }
  if (name === "iheadpruner") {
    // lambda and K are those of the predictor's training.
    const { lambda: _, ...rules } = options;
    const trained = await loadPredictor(predictor ?? DEMO_PREDICTOR);
    return iHeadPruner({
      ...rules,
      predictor: trained,
      compute: (args) => pruneGreedily(engine, args),
    }) as Pruner;
  }
  if (name === "iheadpruner-online") {
    return iHeadPruner({
      ...options,
      online: { train: predictorTrainer(engine) },
      compute: (args) => pruneGreedily(engine, args),
    }) as Pruner;
  }
  if (name === "random") return randomPruner({ share: options.share ?? 0.5 }) as Pruner;
  const ofShare = SHARE_PRUNERS[name];
  if (ofShare !== undefined) return ofShare(options);
  let factory: unknown;
  try {
    factory = (await import(name)).default;
  } catch (cause) {
    throw new UsageError(
      `Cannot use the pruner as it must be ${
        PRUNER_NAMES.join(", ")
      } or a module that loads: "${name}" does not (${(cause as Error).message})`,
    );
  }
  if (typeof factory !== "function") {
    throw new UsageError(
      `Cannot use the pruner as the default export of ${name} must be a function: it is ${typeof factory}`,
    );
  }
  return factory(options) as Pruner;
}

/** A pruner flag as a choice: paths become file URLs. */
export function prunerChoice(
  flag: string,
  options: Readonly<Record<string, number>>,
  predictor = "",
): PrunerChoice {
  const builtIn = PRUNER_NAMES.includes(flag);
  const name = builtIn || /^[a-z]+:/.test(flag) ? flag : new URL(flag, `file://${Deno.cwd()}/`).href;
  return { name, options, ...(predictor === "" ? {} : { predictor }) };
}
