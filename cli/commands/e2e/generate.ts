/**
 * Step 3: continues the test prompts by beam search.
 *
 * @module
 */

import { COMMON_FLAGS } from "../../flags/common_flags.ts";
import { FLAGS as GENERATE } from "../generate.ts";
import { CONNECTION_FLAGS } from "../../flags/connection.ts";
import { type FiveStep, launch, stepProgram, withOther, without } from "../../shared/five_steps.ts";
import { flagArgs, toggle } from "../../flags/flags.ts";
import type { Call } from "../../process/invocation.ts";

const FLAGS = {
  count: { ...COMMON_FLAGS.count, default: 0, help: "test prompts to continue; 0 = all" },
  first: { ...COMMON_FLAGS.first, help: "index of the first one" },
  best: toggle("use the adapter with the best validation loss, which finetune --keep-best saves"),
  ...withOther(
    without(GENERATE, [
      ...[
        "model",
        "tokenizer",
        "adapter",
        "data",
        "predictions",
        "report",
        "distinct",
        "count",
        "first",
      ] as const,
      ...["prompt", "raw", "pair", "chat", "system", "connect", "codec"] as const,
      ...Object.keys(CONNECTION_FLAGS) as (keyof typeof CONNECTION_FLAGS)[],
    ]),
    { beams: 10, "length-penalty": 0.8, "no-repeat-ngram": 4, "max-tokens": 64 },
  ),
};

/** The step. */
export const GENERATE_STEP: FiveStep<typeof FLAGS> = {
  name: "e2e/generate.ts",
  title: "3. Generate by beam search",
  about: "Step 3 of 5: continues each test prompt by beam search, with what was learnt.",
  examples: [
    "edgetuner e2e generate",
    "edgetuner e2e generate --best --count 20",
  ],
  flags: FLAGS,
  needs: { "test.jsonl": "pull.ts", "adapter/adapter_config.json": "finetune.ts" },
  async run({ best, ...values }, { model, tokenizer }, out, form) {
    const { code } = await launch("generate.ts", [
      ...flagArgs({ model, tokenizer }),
      ...["--adapter", `${out}/adapter${best ? "-best" : ""}`, "--data", `${out}/test.jsonl`, "--distinct"],
      ...flagArgs(values),
      ...["--predictions", `${out}/beam.jsonl`, "--report", `${out}/generate.json`],
    ], form);
    return { code, changes: { partial: values.count > 0 } };
  },
};

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await stepProgram(GENERATE_STEP, call);
}
