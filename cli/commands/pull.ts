/**
 * Downloads a model of the Hugging Face hub or a data set of the paper into a cache folder.
 *
 * @module
 */

import { DATASETS } from "@edgetuner/core";
import { readFlags, text, UsageError } from "../flags/flags.ts";
import { HUB_MODEL_FLAG } from "../flags/model_flags.ts";
import { PULL_FLAGS, pulling } from "../shared/pulling.ts";
import type { Call } from "../process/invocation.ts";

async function main(call: Call): Promise<void> {
  const flags = readFlags({
    name: "pull.ts",
    about:
      `Downloads a model or a data set once; interrupted downloads go on where they stopped.\n\nData sets\n${
        Object.entries(DATASETS).map(([name, { about }]) => `  ${name.padEnd(12)}${about}`).join("\n")
      }`,
    examples: [
      "edgetuner pull --model openai-community/gpt2-medium",
      "HF_TOKEN=TOKEN edgetuner pull --model meta-llama/Llama-3.2-1B",
      "edgetuner pull --dataset e2e",
    ],
  }, {
    model: HUB_MODEL_FLAG,
    dataset: text("NAME", "", "data set, see above", ["", ...Object.keys(DATASETS)]),
    ...PULL_FLAGS,
  }, call);
  if ((flags.model === "") === (flags.dataset === "")) {
    throw new UsageError("Cannot pull as one of --model and --dataset must be given; see --help");
  }
  console.log(
    await pulling(
      flags,
      (puller) => flags.model !== "" ? puller.model(flags.model) : puller.dataset(flags.dataset),
    ),
  );
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
