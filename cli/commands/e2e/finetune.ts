/**
 * Step 2: fine-tunes with an edge server and three devices, heads pruned by iHeadPruner.
 *
 * @module
 */

import { FLAGS as DEMO } from "../demo.ts";
import { type FiveStep, launch, stepProgram, withOther, without } from "../../shared/five_steps.ts";
import { flagArgs, toggle } from "../../flags/flags.ts";
import type { Call } from "../../process/invocation.ts";

const FLAGS = {
  ...withOther(
    without(DEMO, [
      ...["model", "tokenizer", "data", "valid", "test", "out", "resume", "report", "persona"] as const,
      // iHeadPruner, with the predictor of step 1, takes no others.
      ...["pruner", "predictor", "lambda", "share", "keep", "online-steps", "online-refresh"] as const,
      // In the five steps they are passes of the predictor's training.
      "epochs",
    ]),
    { batch: 4, length: 512, mode: "slice", targets: "q,v", rate: 2e-4, tau: 0.7, eta: 0.4 },
  ),
  resume: toggle("go on from the last state, after a run with --state-every was interrupted"),
};

/** The step. */
export const FINETUNE_STEP: FiveStep<typeof FLAGS> = {
  name: "e2e/finetune.ts",
  title: "2. Fine-tune with EdgeTuner",
  about:
    "Step 2 of 5: an edge server and three devices fine-tune as processes of this machine, heads pruned by\n" +
    "iHeadPruner. On machines of your own: edge_server.ts and user_device.ts.",
  examples: [
    "edgetuner e2e finetune",
    "edgetuner e2e finetune --state-every 500 --eval-every 500 --keep-best",
    "edgetuner e2e finetune --resume --state-every 500 --eval-every 500 --keep-best",
    "edgetuner e2e finetune --codec f16 --bandwidth 100 --latency 5",
  ],
  flags: FLAGS,
  needs: { "train.jsonl": "pull.ts", "predictor/config.json": "train_pruner.ts" },
  run({ resume, ...values }, { model, tokenizer }, out, form) {
    return launch("demo.ts", [
      ...flagArgs({ model, tokenizer }),
      ...["--data", `${out}/train.jsonl`, "--valid", `${out}/valid.jsonl`, "--test", `${out}/test.jsonl`],
      ...["--pruner", "iheadpruner", "--predictor", `${out}/predictor`],
      ...flagArgs(values),
      ...["--out", out, ...(resume ? ["--resume", out] : []), "--report", `${out}/finetune.json`],
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
  return await stepProgram(FINETUNE_STEP, call);
}
