/**
 * Whether the settings that are chosen where none are given lower the validation loss of a model, and what other
 * learning rates do to it, as a Markdown table. Fails if the chosen ones raise it.
 *
 * @module
 */

import {
  loadEmbeddingAndHead,
  loadLayers,
  LocalTraining,
  openModel,
  TrainingError,
  TrainingPlan,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { runProgram, text, UsageError } from "../cli/flags/flags.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu } from "../cli/flags/webgpu.ts";
import { baseWeightsOf } from "../cli/flags/weights_flag.ts";
import { writeReport } from "../cli/output/report.ts";
import { OWN_CALL } from "../cli/process/invocation.ts";
import { chosenText, readFitted } from "../cli/shared/fitting.ts";
import { loadTrainingSet } from "../cli/shared/training_data.ts";
import { planOptions } from "../cli/shared/training_plan.ts";
import { RUN_FLAGS } from "./_run_flags.ts";

const FLAGS = {
  ...TUNING_FLAGS,
  steps: { ...TUNING_FLAGS.steps, default: 24 },
  factors: text("LIST", "", "other learning rates to try, as factors of this one: 0.3,3"),
  ...RUN_FLAGS,
};

const PROGRAM = {
  name: "bench_defaults.ts",
  about: "Validation loss before and after a short run with the settings chosen, and with other rates.",
  examples: ["deno run -A bench/defaults.ts --model my_model.gguf --batch 2 --length 64 --factors 0.3,3"],
};

/** Validation losses of a run; of one that diverged there is none after. */
interface Outcome {
  readonly rate: number;
  readonly before: number;
  readonly after: number | null;
}

async function main(): Promise<number> {
  const { flags, chosen } = await readFitted(PROGRAM, FLAGS, OWN_CALL);
  const factors = ["1", ...flags.factors.split(",").filter((part) => part !== "")].map(Number);
  if (!factors.every((factor) => factor > 0)) {
    throw new UsageError(
      `Cannot try other rates as --factors must be positive numbers: current value is "${flags.factors}"`,
    );
  }
  const { model, tokenizer } = await openModel(flags.model, flags);
  const load = (file: string) => loadTrainingSet(file, { ...flags, encoder: tokenizer });
  const [set, valid] = [await load(flags.data), await load(flags.valid)];
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  const outcomes: Outcome[] = [];
  console.log(chosenText(chosen) ?? "Nothing was chosen");
  console.log("| rate | validation loss before | after |\n| ---: | ---: | ---: |");
  for (const factor of factors) {
    const rate = Number((factor * flags.rate).toPrecision(3));
    const source = await TrainingPlan.create({ set, valid, ...planOptions(flags) });
    const settings = tuningSettings({ ...flags, rate });
    using training = new LocalTraining({ engine, base, ends, settings, source });
    const after = await training.trainer.run().then(({ losses }) => losses!.after, (error) => {
      if (error instanceof TrainingError) return null;
      throw error;
    });
    const before = source.validations[0]!.loss;
    outcomes.push({ rate, before, after });
    console.log(`| ${rate} | ${before.toFixed(3)} | ${after?.toFixed(3) ?? "not finite"} |`);
  }
  await writeReport(flags.report, { settings: flags, chosen, adapter: engine.adapterName, outcomes });
  const [first] = outcomes;
  const isLower = first!.after !== null && first!.after < first!.before;
  if (!isLower) console.error("The settings chosen raise the validation loss");
  return isLower ? 0 : 1;
}

await runProgram(main);
