/**
 * The flag of every program that loads a base model: how its matrices are held.
 *
 * @module
 */

import { BASE_WEIGHTS, type BaseWeights } from "@edgetuner/core";
import { type FlagValues, text } from "./flags.ts";

/** `--base-weights`. */
export const WEIGHTS_FLAG = {
  "base-weights": text("FORMAT", "f32", "how the frozen base lies in adapter memory", BASE_WEIGHTS),
};

/** What the flag says. */
export function baseWeightsOf(flags: FlagValues<typeof WEIGHTS_FLAG>): BaseWeights {
  return flags["base-weights"] as BaseWeights;
}
