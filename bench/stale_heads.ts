/**
 * What pruning costs by what becomes of a pruned head's weights: the validation loss of the same runs with several
 * factors of `RunSettings.prunedFade`, as a Markdown table. Steps, masks' rules and bytes are the same.
 *
 * @module
 */

import {
  type BaseLayers,
  type BatchSource,
  type EmbeddingAndHead,
  fixedBatches,
  loadEmbeddingAndHead,
  loadLayers,
  LocalData,
  LocalTraining,
  maskSumOf,
  openModel,
  runStep,
  type TokenBatch,
  TokenMean,
  TrainingPlan,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, runProgram, text } from "../cli/flags/flags.ts";
import { makePruner, PRUNER_FLAGS, prunerChoice } from "../cli/flags/pruners.ts";
import { TUNING_FLAGS, tuningSettings } from "../cli/flags/tuning_flags.ts";
import { loadGpu } from "../cli/flags/webgpu.ts";
import { baseWeightsOf } from "../cli/flags/weights_flag.ts";
import { writeReport } from "../cli/output/report.ts";
import { OWN_CALL } from "../cli/process/invocation.ts";
import { readFitted } from "../cli/shared/fitting.ts";
import { loadTrainingSet } from "../cli/shared/training_data.ts";
import { planOptions } from "../cli/shared/training_plan.ts";
import { RUN_FLAGS } from "./_run_flags.ts";

const { seed: _seed, "pruned-fade": _fade, ...TUNING } = TUNING_FLAGS;

const FLAGS = {
  ...TUNING,
  steps: { ...TUNING.steps, default: 120 },
  pruners: text("LIST", "greedy,iheadpruner-online,gradient,random", "pruners to compare"),
  fades: text("LIST", "1,0.9,0.7,0", "factors a step of a pruned head's B"),
  seeds: text("LIST", "1", "seeds; the table has the mean of them"),
  "decide-every": PRUNER_FLAGS["decide-every"],
  "online-steps": integer("N", 40, "iheadpruner-online: unpruned steps before it trains first", { min: 24 }),
  ...RUN_FLAGS,
};

const PROGRAM = {
  name: "bench_stale_heads.ts",
  about: "Validation loss with pruning, by what becomes of a pruned head's weights.",
  examples: ["deno run -A bench/stale_heads.ts --pruners greedy --fades 1,0.9"],
};

/** Capacities of the virtual devices. */
const CAPACITIES = [8, 5, 3];

/** The loss of batches with the heads of a mask alone. */
async function maskedLoss(
  model: { readonly engine: Engine; readonly base: BaseLayers; readonly ends: EmbeddingAndHead },
  { heads }: LocalTraining,
  { batches, mask }: { readonly batches: readonly TokenBatch[]; readonly mask: Uint8Array },
): Promise<number> {
  const next: BatchSource = (at) => at < batches.length ? { batch: batches[at]!, mode: "evaluate" } : null;
  const data = new LocalData(model.ends, { labelSmoothing: 0 }, next);
  const mean = new TokenMean();
  for (const [at, batch] of batches.entries()) {
    const { loss } = await runStep({ ...model, heads, data }, at, (await data.next(at))!, mask);
    mean.add(loss!, maskSumOf(batch));
  }
  return mean.value;
}

const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

async function main(): Promise<void> {
  const { flags } = await readFitted(PROGRAM, FLAGS, OWN_CALL);
  const { model: folder, tokenizer } = await openModel(flags.model, flags);
  const load = (file: string) => loadTrainingSet(file, { ...flags, encoder: tokenizer });
  const [set, valid] = [await load(flags.data), await load(flags.valid)];
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using base = loadLayers(engine, folder, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, folder, { baseWeights });
  const model = { engine, base, ends };
  const batches = fixedBatches(valid, flags.batch).slice(0, flags["valid-batches"] || undefined);
  const results: Record<string, unknown>[] = [];

  const run = async (name: string, prunedFade: number, seed: number) => {
    const own = {
      "decide-every": flags["decide-every"],
      ...(name === "iheadpruner-online" && { "online-steps": flags["online-steps"] }),
    };
    const pruner = await makePruner(prunerChoice(name, own), engine);
    const settings = tuningSettings({ ...flags, seed, "pruned-fade": `${prunedFade}` });
    const source = await TrainingPlan.create({ set, valid, ...planOptions({ ...flags, seed }) });
    let last = new Uint8Array(base.shape.layers * base.shape.heads);
    let pruned = 0;
    using training = new LocalTraining({
      ...model,
      ...{ settings, source, pruner, capacities: CAPACITIES },
      onEvent(event) {
        if (event.type !== "step" || event.mode !== "train") return;
        last = Uint8Array.from(event.decision.mask);
        pruned += last.reduce((sum, z) => sum + z, 0) / last.length / flags.steps;
      },
    });
    const { losses } = await training.trainer.run();
    const masked = await maskedLoss(model, training, { batches, mask: last });
    const result = { pruner: name, prunedFade, seed, loss: losses!.after, masked, kept: 1 - pruned };
    results.push(result);
    console.error(JSON.stringify(result));
    return result;
  };

  console.log(`${flags.steps} steps, mode ${flags.mode}, seeds ${flags.seeds}`);
  console.log("| pruner | fade | heads kept | validation loss | under the last mask |");
  console.log("| --- | ---: | ---: | ---: | ---: |");
  for (const name of flags.pruners.split(",")) {
    for (const fade of name === "none" ? [1] : flags.fades.split(",").map(Number)) {
      const runs = [];
      for (const seed of flags.seeds.split(",").map(Number)) runs.push(await run(name, fade, seed));
      const [loss, masked] = [meanOf(runs.map((r) => r.loss)), meanOf(runs.map((r) => r.masked))];
      const kept = `${(100 * meanOf(runs.map((r) => r.kept))).toFixed(0)} %`;
      console.log(`| ${name} | ${fade} | ${kept} | ${loss.toFixed(4)} | ${masked.toFixed(4)} |`);
    }
  }
  await writeReport(flags.report, { results });
}

await runProgram(main);
