/**
 * Flags of the programs here that train a model: which model and data, and how much of them.
 *
 * @module
 */

import { COMMON_FLAGS } from "../cli/flags/common_flags.ts";
import { fitting } from "../cli/flags/flags.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../cli/flags/model_flags.ts";
import { WEIGHTS_FLAG } from "../cli/flags/weights_flag.ts";
import { assetPath } from "../cli/process/places.ts";
import { DATA_FLAGS } from "../cli/shared/training_data.ts";
import { PLAN_FLAGS } from "../cli/shared/training_plan.ts";

/** Model, data, validation and report. Without flags: the tiny model and its restaurants. */
export const RUN_FLAGS = {
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  ...PLAN_FLAGS,
  valid: { ...PLAN_FLAGS.valid, default: assetPath("restaurant/valid.txt") },
  "valid-batches": { ...PLAN_FLAGS["valid-batches"], default: 4 },
  batch: fitting(COMMON_FLAGS.batch),
  length: fitting(COMMON_FLAGS.length),
  webgpu: COMMON_FLAGS.webgpu,
  report: COMMON_FLAGS.report,
};
