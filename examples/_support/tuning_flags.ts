/**
 * Flags that every program that trains has, and the run settings they make.
 *
 * @module
 */

import {
  DEFAULT_OPTIMIZER,
  type LoraTarget,
  type RunSettings,
  type Schedule,
  SCHEDULES,
} from "@edgetuner/core";
import { type FlagValues, integer, number, text } from "./flags.ts";

/** LoRA, optimizer, steps and seed. */
export const TUNING_FLAGS = {
  steps: integer("N", 400, "training steps", { min: 1 }),
  mode: text("MODE", "full", "what a head module reads", ["slice", "full"]),
  targets: text("LIST", "q,k,v", "projections that LoRA adapts: some of q, k, v"),
  rank: integer("N", 8, "LoRA rank of each head module", { min: 1, max: 256 }),
  alpha: number("X", 32, "LoRA scale: Deltas are multiplied by alpha / rank", { min: 0 }),
  dropout: number("X", 0, "LoRA dropout", { min: 0, max: 0.99 }),
  rate: number("X", 1e-2, "peak learning rate", { min: 0 }),
  warmup: integer("N", 10, "steps of learning-rate warm-up", { min: 0 }),
  schedule: text("NAME", "linear", "learning rate after the warm-up", SCHEDULES),
  seed: integer("N", 1, "seed of everything that is drawn", { min: 0, max: 0xffff_ffff }),
};

/** The run settings that these flags ask for. */
export function tuningSettings(flags: FlagValues<typeof TUNING_FLAGS>): RunSettings {
  return {
    lora: {
      mode: flags.mode as "slice" | "full",
      targets: flags.targets.split(",") as LoraTarget[],
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
