/**
 * Flags that every program that trains has, and the run settings they make.
 *
 * @module
 */

import {
  DEFAULT_OPTIMIZER,
  INPUT_MODE_NAMES,
  type InputModeName,
  type LoraTarget,
  type RunSettings,
  type Schedule,
  SCHEDULES,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text, UsageError } from "./flags.ts";

/** LoRA, optimizer, steps and seed. */
export const TUNING_FLAGS = {
  steps: integer("N", 400, "training steps", { min: 1 }),
  mode: text("MODE", "full", "what a head module reads", INPUT_MODE_NAMES),
  targets: text("LIST", "q,k,v", "projections that LoRA adapts: some of q, k, v"),
  rank: integer("N", 8, "LoRA rank of each head module", { min: 1, max: 256 }),
  alpha: number("X", 32, "LoRA scale: Deltas are multiplied by alpha / rank", { min: 0 }),
  dropout: number("X", 0, "LoRA dropout", { min: 0, max: 0.99 }),
  rate: number("X", 1e-2, "peak learning rate", { min: 0 }),
  warmup: integer("N", 10, "steps of learning-rate warm-up", { min: 0 }),
  schedule: text("NAME", "linear", "learning rate after the warm-up", SCHEDULES),
  seed: integer("N", 1, "seed of everything that is drawn", { min: 0, max: 0xffff_ffff }),
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
  throw new UsageError(
    `Cannot tune as --targets must be some of ${
      TARGETS.join(", ")
    }, each once, with commas between them: current value is "${given}"`,
  );
}

/**
 * The run settings that these flags ask for.
 *
 * @throws {UsageError} If `targets` is no list of projections.
 */
export function tuningSettings(flags: FlagValues<typeof TUNING_FLAGS>): RunSettings {
  return {
    lora: {
      mode: flags.mode as InputModeName,
      targets: loraTargets(flags.targets),
      rank: flags.rank,
      alpha: flags.alpha,
      dropout: flags.dropout,
    },
    optimizer: {
      ...DEFAULT_OPTIMIZER,
      learningRate: flags.rate,
      warmupSteps: Math.min(flags.warmup, flags.steps),
      schedule: flags.schedule as Schedule,
    },
    steps: flags.steps,
    seed: flags.seed,
  };
}
