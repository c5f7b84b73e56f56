/**
 * Step 5: scores the texts against their references, and makes a page to read them.
 *
 * @module
 */

import { COMMON_FLAGS } from "../../flags/common_flags.ts";
import { type FiveStep, launch, stepProgram } from "../../shared/five_steps.ts";
import { flagArgs } from "../../flags/flags.ts";
import type { Call } from "../../process/invocation.ts";

const FLAGS = {
  synonyms: COMMON_FLAGS.synonyms,
  samples: { ...COMMON_FLAGS.samples, min: 1, help: "texts on the page" },
};

/** The step. */
export const SCORE_STEP: FiveStep<typeof FLAGS> = {
  name: "e2e/score.ts",
  title: "5. Score",
  about:
    "Step 5 of 5: BLEU, NIST, METEOR, ROUGE-L and CIDEr, and a page with the texts beside their references.",
  examples: [
    "edgetuner e2e score",
    "edgetuner e2e score --synonyms none   # no network",
  ],
  flags: FLAGS,
  needs: { "references.txt": "decode.ts", "predictions.txt": "decode.ts" },
  run(values, _note, out, form) {
    return launch("evaluate.ts", [
      ...["--references", `${out}/references.txt`, "--predictions", `${out}/predictions.txt`],
      ...flagArgs(values),
      ...["--report", `${out}/scores.json`, "--pretty", `${out}/samples.html`],
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
  return await stepProgram(SCORE_STEP, call);
}
