/**
 * The settings that runs begin with.
 *
 * @module
 */

import { INPUT_MODES, type InputModeName } from "../lora/input_modes.ts";
import { checkLora, DEFAULT_LORA, DEFAULT_OPTIMIZER } from "../lora/settings.ts";
import type { ModelConfig } from "../model/families.ts";
import { fittingSettingsOf } from "./fitting_settings.ts";
import { type RunSettings, TRAINING_DEFAULTS } from "./run_settings.ts";

/**
 * The settings that the commands begin with too; the warm-up is no longer than the run.
 *
 * @param steps Training steps.
 * @param model Configuration of the model that rate, warm-up and rank shall fit, `config` of what `openModel` gives;
 * without it they fit a very small one. @default {none}
 * @param mode What head modules read of X, which the rate fits too. @default {that of DEFAULT_LORA}
 * @category Training
 */
export function defaultRunSettings(
  steps: number = TRAINING_DEFAULTS.steps,
  model: ModelConfig | null = null,
  mode: InputModeName = DEFAULT_LORA.mode,
): Required<Omit<RunSettings, "prunedFade">> {
  const { warmupSteps } = DEFAULT_OPTIMIZER;
  const { rank } = DEFAULT_LORA;
  const fitting = model === null
    ? {
      learningRate: INPUT_MODES[mode].learningRate({ heads: 1, hidden: 1 }),
      warmupSteps: Math.min(warmupSteps, steps),
      rank,
    }
    : fittingSettingsOf(model, { steps, mode });
  return {
    lora: checkLora({ ...DEFAULT_LORA, mode, rank: fitting.rank }),
    optimizer: {
      ...DEFAULT_OPTIMIZER,
      learningRate: fitting.learningRate,
      warmupSteps: fitting.warmupSteps,
    },
    steps,
    seed: TRAINING_DEFAULTS.seed,
    codec: "f32",
    microBatches: 1,
    overlap: true,
    accumulate: 1,
    clipNorm: null,
    saveEvery: 0,
    task: "train",
  };
}
