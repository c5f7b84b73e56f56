/**
 * Flags that every program that trains has, and the run settings they make.
 *
 * @module
 */

import {
  DEFAULT_LORA,
  DEFAULT_OPTIMIZER,
  DEFAULT_PROJECTIONS,
  INPUT_MODE_NAMES,
  INPUT_MODES,
  type InputModeName,
  type LoraForm,
  type LoraTarget,
  PROJECTION_SOURCES,
  type ProjectionSettings,
  type RunSettings,
  type Schedule,
  SCHEDULES,
  TRAINING_DEFAULTS,
} from "@edgetuner/core";
import { fitting, type FlagValues, integer, number, text, toggle, UsageError } from "./flags.ts";
import { unknownName } from "./suggest.ts";

const { mode, targets, rank, alpha, dropout } = DEFAULT_LORA;
const { learningRate, warmupSteps, schedule } = DEFAULT_OPTIMIZER;
const { steps, seed } = TRAINING_DEFAULTS;

/** LoRA, optimizer, steps and seed; the library has the defaults. */
export const TUNING_FLAGS = {
  steps: integer("N", steps, "training steps", { min: 1 }),
  mode: text("MODE", mode, "what a head module reads", INPUT_MODE_NAMES),
  targets: text("LIST", targets.join(","), "projections that LoRA adapts: some of q, k, v"),
  projections: text(
    "FROM",
    DEFAULT_PROJECTIONS.from,
    "mode core: frozen projections drawn from a seed, or made of the base model's weights",
    PROJECTION_SOURCES,
  ),
  "projection-seed": integer("N", DEFAULT_PROJECTIONS.seed, "mode core: seed of the projections", {
    min: 0,
    max: 0xffff_ffff,
  }),
  "shared-a": toggle("mode core: the targets of a head share one A, so that less travels"),
  rank: fitting(integer("N", rank, "LoRA rank of each head module", { min: 1, max: 256 })),
  alpha: number("X", alpha, "LoRA scale: Deltas are multiplied by alpha / rank", { min: 1e-6, max: 1e6 }),
  dropout: number("X", dropout, "LoRA dropout", { min: 0, max: 0.99 }),
  rate: fitting(number("X", learningRate, "peak learning rate", { min: 1e-9, max: 1000 })),
  warmup: fitting(integer("N", warmupSteps, "steps of learning-rate warm-up", { min: 0 })),
  schedule: text("NAME", schedule, "learning rate after the warm-up", SCHEDULES),
  "pruned-fade": text(
    "X",
    "pruner",
    "factor a step of what a pruned head has learnt, from 0 (it is cleared) to 1 (it stays); pruner = what suits the pruner",
  ),
  seed: integer("N", seed, "seed of everything that is drawn", { min: 0, max: 0xffff_ffff }),
};

/** The rank as PEFT counts it, for programs that choose what fits the model. */
export const TOTAL_RANK_FLAG = {
  "total-rank": integer(
    "N",
    0,
    "--rank by the rank that the exported adapter has at most; 0 = as --rank says",
    {
      min: 0,
    },
  ),
};

const TARGETS: readonly string[] = ["q", "k", "v"] satisfies LoraTarget[];

/**
 * The projections that LoRA adapts.
 *
 * @throws {UsageError} If one is not known, named twice, or there is none.
 */
export function loraTargets(given: string): LoraTarget[] {
  const targets = given.split(",").map((target) => target.trim());
  if (targets.every((target) => TARGETS.includes(target)) && new Set(targets).size === targets.length) {
    return targets as LoraTarget[];
  }
  const unknown = targets.find((target) => !TARGETS.includes(target));
  throw new UsageError(
    `Cannot tune as --targets must be some of ${TARGETS.join(", ")}, each once, with commas between them: ${
      unknown === undefined ? `current value is "${given}"` : unknownName(unknown, TARGETS)
    }`,
  );
}

/** What flags say of the shapes of head modules. */
export type LoraFormFlags = Pick<
  FlagValues<typeof TUNING_FLAGS>,
  "mode" | "targets" | "rank" | "projections" | "projection-seed" | "shared-a"
>;

/**
 * What travels and what is trained, as the flags ask for it.
 *
 * @throws {UsageError} If `targets` is no list of projections, or a flag is not for the mode.
 */
export function loraFormOf(flags: LoraFormFlags): LoraForm {
  const mode = flags.mode as InputModeName;
  const form = { mode, targets: loraTargets(flags.targets), rank: flags.rank };
  const projections = {
    from: flags.projections as ProjectionSettings["from"],
    seed: flags["projection-seed"],
    shared: flags["shared-a"],
  };
  if (INPUT_MODES[mode].projects) return { ...form, projections };
  const flag = projections.shared
    ? "shared-a"
    : projections.from === DEFAULT_PROJECTIONS.from
    ? ""
    : "projections";
  if (flag === "") return form;
  const modes = INPUT_MODE_NAMES.filter((name) => INPUT_MODES[name].projects);
  throw new UsageError(
    `Cannot tune with --${flag} as --mode must be ${modes.join(" or ")} for it: current value is ${mode}`,
  );
}

/** The factor that a flag says; nothing where the pruner says it. */
function fadeOf(given: string): Pick<RunSettings, "prunedFade"> {
  if (given === "pruner") return {};
  const prunedFade = Number(given);
  if (given !== "" && prunedFade >= 0 && prunedFade <= 1) return { prunedFade };
  throw new UsageError(
    `Cannot tune as --pruned-fade must be from 0 to 1, or "pruner": current value is "${given}"`,
  );
}

/**
 * The run settings that these flags ask for.
 *
 * @throws {UsageError} If `targets` is no list of projections, or a flag is not for the mode.
 */
export function tuningSettings(flags: FlagValues<typeof TUNING_FLAGS>): RunSettings {
  return {
    lora: { ...loraFormOf(flags), alpha: flags.alpha, dropout: flags.dropout },
    optimizer: {
      ...DEFAULT_OPTIMIZER,
      learningRate: flags.rate,
      warmupSteps: Math.min(flags.warmup, flags.steps),
      schedule: flags.schedule as Schedule,
    },
    steps: flags.steps,
    ...fadeOf(flags["pruned-fade"]),
    seed: flags.seed,
  };
}
