/**
 * Step 1: trains iHeadPruner's importance predictor on an unpruned run over the E2E data.
 *
 * @module
 */

import {
  type FiveStep,
  launch,
  stepProgram,
  withOther,
  without,
  writeNote,
} from "../../shared/five_steps.ts";
import { flagArgs, integer, UsageError } from "../../flags/flags.ts";
import { FLAGS as TRAIN_PRUNER } from "../train_pruner.ts";
import type { Call } from "../../process/invocation.ts";

const FLAGS = {
  "pruner-steps": integer("N", 400, "unpruned steps that the predictor is trained on", { min: 1 }),
  ...withOther(
    without(TRAIN_PRUNER, ["steps", "runs", "samples", "model", "tokenizer", "data", "out", "report"]),
    { batch: 4, length: 512, mode: "slice", targets: "q,v", rate: 2e-4 },
  ),
};

/** The step. */
export const TRAIN_PRUNER_STEP: FiveStep<typeof FLAGS> = {
  name: "e2e/train_pruner.ts",
  title: "1. Train the pruner",
  about: "Step 1 of 5: an unpruned run collects samples, and iHeadPruner's predictor is trained on them.",
  examples: [
    "edgetuner e2e train-pruner",
    "edgetuner e2e train-pruner --pruner-steps 1000 --base-weights int8",
  ],
  flags: FLAGS,
  needs: { "train.jsonl": "pull.ts" },
  async run({ "pruner-steps": steps, ...values }, note, out, form) {
    const { model, tokenizer } = note;
    // Training that changes gives other samples; how many there are, and what is made of them, may change.
    const { epochs: _epochs, history: _history, lambda: _lambda, webgpu: _webgpu, ...kept } = values;
    const collected = JSON.stringify(kept);
    const there = await Deno.stat(`${out}/samples.bin`).then(() => true, () => false);
    if (there && note.collected !== undefined && note.collected !== collected) {
      throw new UsageError(
        `Cannot run e2e/train_pruner.ts as ${out}/samples.bin must have been collected with the same flags: it was with ${note.collected}, now they are ${collected}; remove the file, or name another --out`,
      );
    }
    await writeNote(out, { ...note, collected });
    const { code } = await launch("train_pruner.ts", [
      ...flagArgs({ model, tokenizer, data: `${out}/train.jsonl`, runs: 1, steps, ...values }),
      ...["--samples", `${out}/samples.bin`, "--out", `${out}/predictor`],
      ...["--report", `${out}/pruner.json`],
    ], form);
    return { code, changes: { collected } };
  },
};

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await stepProgram(TRAIN_PRUNER_STEP, call);
}
