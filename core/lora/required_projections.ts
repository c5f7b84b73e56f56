/**
 * Whether the frozen projections of a run are there.
 *
 * @module
 */

import type { ModelShape } from "../contracts/model_shape.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { type HeadProjections, projectionsFor } from "./projections.ts";
import type { LoraSettings } from "./settings.ts";

/**
 * Checks that a run's projections can be made, if its mode has any.
 *
 * @param lora LoRA settings of the run.
 * @param model Shape of the model.
 * @param given Projections from the base model, if there are such.
 * @throws {RangeError} If the rank is larger than the head size.
 * @throws {TypeError} If they are to be made from the base model, and are not given.
 */
export function requireProjections(
  lora: Pick<LoraSettings, "mode" | "targets" | "rank" | "projections">,
  model: ModelShape,
  given?: HeadProjections,
): void {
  if (INPUT_MODES[lora.mode].projects) projectionsFor(lora, model, given);
}
