/**
 * Flags of whoever has the data: validation, the best heads, and the loss of training.
 *
 * @module
 */

import { type PaddingCount, TRAINING_DEFAULTS, type TrainingPlanOptions } from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { requireFlag } from "../flags/run_flags.ts";
import { fitting, type FlagValues, integer, number, toggle } from "../flags/flags.ts";

/** Flags of whoever has the data. */
export const PLAN_FLAGS = {
  valid: COMMON_FLAGS.valid,
  "valid-batches": integer(
    "N",
    TRAINING_DEFAULTS.validBatches,
    "batches of validation data to evaluate; 0 = all of the file",
    {
      min: 0,
    },
  ),
  "eval-every": integer("N", 0, "evaluate every so many steps too; 0 = only before and after", { min: 0 }),
  patience: integer(
    "N",
    0,
    "end the run after so many validations in a row without a lower loss; 0 = do all steps",
    { min: 0 },
  ),
  "keep-best": toggle(
    "also save the heads with the best validation loss, to <save>-best",
  ),
  smoothing: fitting(
    number("X", TRAINING_DEFAULTS.labelSmoothing, "label smoothing in training", { min: 0, max: 0.99 }),
  ),
};

/** What the flags say of a plan. */
export function planOptions(
  flags:
    & Pick<FlagValues<typeof PLAN_FLAGS>, "valid-batches" | "eval-every" | "patience" | "smoothing">
    & { readonly batch: number; readonly seed: number; readonly "pad-to-multiple-of": number },
): Omit<TrainingPlanOptions, "set" | "valid"> {
  const { batch, seed, smoothing } = flags;
  return {
    batch,
    seed,
    padToMultipleOf: flags["pad-to-multiple-of"],
    smoothing,
    validBatches: flags["valid-batches"],
    evalEvery: flags["eval-every"],
    patience: flags.patience,
  };
}

/**
 * Refuses flags of validation without those that they need.
 *
 * @param program The command, for the message.
 * @throws {UsageError} If one is given without the one that it needs.
 */
export function requirePlan(
  program: string,
  { valid, patience, ...flags }: Pick<
    FlagValues<typeof PLAN_FLAGS>,
    "valid" | "patience" | "eval-every" | "keep-best"
  >,
): void {
  const evalEvery = flags["eval-every"];
  for (
    const [flag, needs, isMet] of [
      ["eval-every", "valid", evalEvery === 0 || valid !== ""],
      ["patience", "eval-every", patience === 0 || evalEvery > 0],
      ["keep-best", "valid", !flags["keep-best"] || valid !== ""],
    ] as const
  ) requireFlag(program, { flag, needs, isMet });
}

/** What padding to a multiple has saved, in words and numbers; `null` if nothing. */
export function paddingSaved(
  padding: PaddingCount | null,
): (PaddingCount & { readonly text: string }) | null {
  if (padding === null) return null;
  const { places, allPlaces } = padding;
  const share = (100 * (1 - places / allPlaces)).toFixed(0);
  return {
    places,
    allPlaces,
    text: `padding to a multiple saved ${share} % of ${allPlaces} places for tokens`,
  };
}
