/**
 * Pruners by name, or from a module of the user's own.
 *
 * @module
 */

import { greedyPruner, noPruner, randomPruner } from "@edgetuner/plugins";
import type { Pruner } from "@edgetuner/core";
import { type Engine, pruneGreedily } from "@edgetuner/kernels";
import { UsageError } from "./flags.ts";

/** Which pruner, and its parameters; plain data, so that it can go to a worker. */
export interface PrunerChoice {
  /** `none`, `greedy`, `random`, or the URL of a module whose default export is a factory. */
  readonly name: string;
  /** Parameters for the factory. */
  readonly options: Readonly<Record<string, number>>;
}

/**
 * Makes the pruner. The greedy one decides on the GPU.
 *
 * @throws {UsageError} If the name is unknown, or the module does not load or export a factory.
 */
export async function makePruner({ name, options }: PrunerChoice, engine: Engine): Promise<Pruner> {
  if (name === "none") return noPruner() as Pruner;
  if (name === "greedy") {
    return greedyPruner({
      ...options,
      compute: (args) => pruneGreedily(engine, args),
    }) as Pruner;
  }
  if (name === "random") return randomPruner({ share: options.share ?? 0.5 }) as Pruner;
  let factory: unknown;
  try {
    factory = (await import(name)).default;
  } catch (cause) {
    throw new UsageError(
      `Cannot use the pruner as it must be none, greedy, random or a module that loads: "${name}" does not (${
        (cause as Error).message
      })`,
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
export function prunerChoice(flag: string, options: Readonly<Record<string, number>>): PrunerChoice {
  const builtIn = ["none", "greedy", "random"].includes(flag);
  const name = builtIn || /^[a-z]+:/.test(flag) ? flag : new URL(flag, `file://${Deno.cwd()}/`).href;
  return { name, options };
}
