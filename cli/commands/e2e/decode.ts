/**
 * Step 4: makes texts of the tokens that the search found, and puts the references beside them.
 *
 * @module
 */

import { COMMON_FLAGS } from "../../flags/common_flags.ts";
import { type FiveStep, launch, stepProgram } from "../../shared/five_steps.ts";
import { flagArgs } from "../../flags/flags.ts";
import type { Call } from "../../process/invocation.ts";

const FLAGS = {
  "lower-case": COMMON_FLAGS["lower-case"],
  tokenize: COMMON_FLAGS.tokenize,
};

/** The step. */
export const DECODE_STEP: FiveStep<typeof FLAGS> = {
  name: "e2e/decode.ts",
  title: "4. Decode",
  about:
    "Step 4 of 5: makes texts of the tokens that generate.ts found, and gathers the references of each prompt.",
  examples: ["edgetuner e2e decode"],
  flags: FLAGS,
  needs: { "test.jsonl": "pull.ts", "beam.jsonl": "generate.ts" },
  run(values, { model, tokenizer, partial }, out, form) {
    return launch("decode.ts", [
      ...["--data", `${out}/test.jsonl`, "--predictions", `${out}/beam.jsonl`],
      ...flagArgs({ model, tokenizer, output: out, "drop-missing": partial, ...values }),
    ], form);
  },
};

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await stepProgram(DECODE_STEP, call);
}
