/**
 * Pruners by name, or from a module of the user's own.
 *
 * @module
 */

import {
  deadlinePruner,
  dloraPruner,
  gradientPruner,
  greedyPruner,
  heldPruner,
  iHeadPruner,
  magnitudePruner,
  noPruner,
  oraclePruner,
  randomPruner,
} from "@edgetuner/plugins";
import { loadPredictor, predictorTrainer, type Pruner } from "@edgetuner/core";
import { type Engine, greedyPruneOnGpu } from "@edgetuner/kernels";
import { type FlagValues, type GivenFlags, integer, number, text, UsageError } from "./flags.ts";
import { moduleOf } from "./modules.ts";
import { assetPath } from "../process/places.ts";
import { isolatedPruner } from "../process/plugin_host.ts";

/** Pruners that keep a given share of the heads: `options.keep`. */
export const SHARE_PRUNERS: Readonly<Record<string, (keep: { readonly keep?: number }) => Pruner>> = {
  magnitude: (keep) => magnitudePruner(keep) as Pruner,
  gradient: (keep) => gradientPruner(keep) as Pruner,
  oracle: (keep) => oraclePruner(keep) as Pruner,
  dlora: ({ keep }) => dloraPruner(keep === undefined ? {} : { activeFraction: keep }) as Pruner,
};

/** Names of all pruners that come with the library, for `--help`. */
export const PRUNER_NAMES = [
  ...["none", "greedy", "iheadpruner", "iheadpruner-online", "random", "deadline"],
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

/** The predictor that comes with the examples, for `cli/assets/tiny_gpt2` on devices of capacities 8 : 5 : 3. */
export const DEMO_PREDICTOR = assetPath("demo_predictor");

/** Flags of pruners: which one, and its parameters. */
export const PRUNER_FLAGS = {
  pruner: text(
    "NAME",
    "greedy",
    `${PRUNER_NAMES.join(", ")}, or a module with a pruner factory as its default export`,
  ),
  predictor: text("DIR", DEMO_PREDICTOR, "iheadpruner: folder of its predictor"),
  tau: number("X", 0.7, "greedy, iheadpruner: share of a layer's importance to keep", { min: 0, max: 1 }),
  eta: number("X", 0.4, "greedy, iheadpruner: share of pruned heads above which a layer is pruned whole", {
    min: 0,
    max: 1,
  }),
  rho: number("X", 0.2, "greedy, iheadpruner: how much weaker devices' heads count less", { min: 0 }),
  beta: number(
    "X",
    0.3,
    "greedy, iheadpruner: how much the remaining heads of a device gain when others of it are pruned",
    { min: 0 },
  ),
  lambda: number("X", 0.8, "greedy, iheadpruner-online: weight of the newest step", { min: 0, max: 1 }),
  "online-steps": integer(
    "N",
    100,
    "iheadpruner-online: unpruned steps before it trains for the first time",
    {
      min: 24,
    },
  ),
  "online-refresh": integer(
    "N",
    100,
    "iheadpruner-online: steps from one training to the next; 0 = only one",
    {
      min: 0,
    },
  ),
  share: number("X", 0.5, "random: share of heads to prune", { min: 0, max: 1 }),
  keep: number(
    "X",
    0,
    `${Object.keys(SHARE_PRUNERS).join(", ")}: share of heads to keep; 0 = the pruner's own`,
    { min: 0, max: 1 },
  ),
  "decide-every": integer("N", 1, "steps for which a pruner's mask stays", { min: 1 }),
  "seconds-per-step": number("X", 0, "deadline: seconds that a step may take on average; 0 = no limit", {
    min: 1e-3,
    orZero: true,
  }),
  "mb-per-step": number("X", 0, "deadline: MB that a step may put on the wire; 0 = no limit", {
    min: 1e-3,
    orZero: true,
  }),
};

/** Budgets of `deadline`, in the units of flags. */
const BUDGETS = ["seconds-per-step", "mb-per-step"] as const;

function isBudget(name: string): boolean {
  return BUDGETS.some((budget) => budget === name);
}

type PrunerParameter = Exclude<keyof typeof PRUNER_FLAGS, "pruner">;

/** The flags that a pruner takes; `null` for a module, which gets what is given. */
function parametersOf(name: string): readonly PrunerParameter[] | null {
  const own = ownParametersOf(name);
  return own === null || name === "none" ? own : [...own, "decide-every"];
}

function ownParametersOf(name: string): readonly PrunerParameter[] | null {
  if (name === "none") return [];
  if (name === "random") return ["share"];
  if (name in SHARE_PRUNERS) return ["keep"];
  if (name === "deadline") return BUDGETS;
  if (name === "iheadpruner") return ["predictor", "tau", "eta", "rho", "beta"];
  const measured = ["tau", "eta", "rho", "beta", "lambda"] as const;
  if (name === "iheadpruner-online") return [...measured, "online-steps", "online-refresh"];
  return name === "greedy" ? measured : null;
}

/**
 * The flags that the chosen pruner takes, with their values.
 *
 * @param program Name of the program, for the message.
 * @param values All flags.
 * @param given Those that were given.
 * @throws {UsageError} If one was given that the pruner does not take.
 */
export function prunerFlags(
  program: string,
  values: FlagValues<typeof PRUNER_FLAGS>,
  given: GivenFlags<typeof PRUNER_FLAGS>,
): Partial<Pick<FlagValues<typeof PRUNER_FLAGS>, PrunerParameter>> {
  const taken = parametersOf(values.pruner);
  const names = Object.keys(PRUNER_FLAGS).filter((name) => name !== "pruner") as PrunerParameter[];
  if (taken === null) {
    // As built-in ones of no name of their own: greedy's parameters, and what else is given.
    const passed = names.filter((name) =>
      name in given || ["tau", "eta", "rho", "beta", "lambda"].includes(name)
    );
    return Object.fromEntries(passed.map((name) => [name, values[name]]));
  }
  // A budget of 0 is none: programs that pass their flags on pass it too.
  const isGiven = (name: PrunerParameter) =>
    given[name] !== undefined && !(isBudget(name) && given[name] === 0);
  const other = names.find((name) => isGiven(name) && !taken.includes(name));
  if (other !== undefined) {
    const list = taken.length === 0 ? "no parameters" : taken.map((name) => `--${name}`).join(", ");
    throw new UsageError(
      `Cannot run ${program} as the pruner ${values.pruner} takes ${list}: --${other} is given`,
    );
  }
  if (values.pruner === "deadline" && BUDGETS.every((name) => values[name] === 0)) {
    throw new UsageError(
      `Cannot run ${program} as the pruner deadline needs ${
        BUDGETS.map((name) => `--${name}`).join(" or ")
      }: neither is given`,
    );
  }
  return Object.fromEntries(taken.map((name) => [name, values[name]]));
}

/** The parameters of the flags that a pruner takes, as its factory gets them. */
export function prunerOptions(flags: ReturnType<typeof prunerFlags>): Readonly<Record<string, number>> {
  const options = Object.entries(flags).filter(([name, value]) =>
    typeof value === "number" && !(name === "keep" && value === 0)
  );
  return Object.fromEntries(options as [string, number][]);
}

/**
 * Makes the pruner. The greedy one decides on the GPU; one from a module runs in a worker of its own.
 *
 * @param limitMs Longest time for a call of a module's pruner, in milliseconds. @default {120000}
 * @throws {UsageError} If the name is unknown, or the module does not load or export a factory.
 * @throws {PluginError} If the module does not finish loading, or what it makes is no pruner.
 */
export async function makePruner(
  { options: { "decide-every": every = 1, ...options }, ...choice }: PrunerChoice,
  engine: Engine,
  limitMs?: number,
): Promise<Pruner> {
  const pruner = await makeOne({ ...choice, options }, engine, limitMs);
  return every === 1 ? pruner : heldPruner({ pruner, every }) as Pruner;
}

async function makeOne(
  { name, options, predictor }: PrunerChoice,
  engine: Engine,
  limitMs?: number,
): Promise<Pruner> {
  if (name === "none") return noPruner() as Pruner;
  if (name === "greedy") {
    return greedyPruner({
      ...options,
      compute: (args) => greedyPruneOnGpu(engine, args),
    }) as Pruner;
  }
  if (name === "iheadpruner") {
    // lambda and K are those of the predictor's training.
    const { lambda: _, ...rules } = options;
    const trained = await loadPredictor(predictor ?? DEMO_PREDICTOR);
    return iHeadPruner({
      ...rules,
      predictor: trained,
      compute: (args) => greedyPruneOnGpu(engine, args),
    }) as Pruner;
  }
  if (name === "iheadpruner-online") {
    const { "online-steps": steps = 100, "online-refresh": refresh = 100, ...rules } = options;
    return iHeadPruner({
      ...rules,
      online: { train: predictorTrainer(engine), steps, refresh: refresh === 0 ? Infinity : refresh },
      compute: (args) => greedyPruneOnGpu(engine, args),
    }) as Pruner;
  }
  if (name === "random") return randomPruner({ share: options.share ?? 0.5 }) as Pruner;
  if (name === "deadline") {
    const { "seconds-per-step": seconds = 0, "mb-per-step": megabytes = 0 } = options;
    return deadlinePruner({
      ...(seconds > 0 && { secondsPerStep: seconds }),
      ...(megabytes > 0 && { bytesPerStep: 1e6 * megabytes }),
    }) as Pruner;
  }
  const ofShare = SHARE_PRUNERS[name];
  if (ofShare !== undefined) return ofShare(options);
  return await isolatedPruner({ module: name, options, others: PRUNER_NAMES.join(", "), limitMs });
}

/**
 * A pruner flag as a choice: paths become file URLs.
 *
 * @throws {UsageError} If it is neither a name nor a module that is there.
 */
export function prunerChoice(
  flag: string,
  options: Readonly<Record<string, number>>,
  predictor = "",
): PrunerChoice {
  const builtIn = PRUNER_NAMES.includes(flag);
  const name = builtIn ? flag : moduleOf("pruner", flag, PRUNER_NAMES);
  return { name, options, ...(predictor === "" ? {} : { predictor }) };
}
