/**
 * What each input mode learns, and what it sends for that: validation loss after a run, bytes of a step over devices,
 * and what a device holds and computes, as a Markdown table. Each case runs at some rates, of which the best counts.
 *
 * @module
 */

import {
  allocateHeads,
  baseProjections,
  HeadModules,
  headParameters,
  INPUT_MODE_NAMES,
  INPUT_MODES,
  type InputModeName,
  inputRows,
  loadEmbeddingAndHead,
  loadLayers,
  LocalTraining,
  modeSize,
  openModel,
  type RunSettings,
  shapeForDevices,
  stepTraffic,
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
import { readFitted } from "../cli/shared/fitting.ts";
import { loadTrainingSet } from "../cli/shared/training_data.ts";
import { planOptions } from "../cli/shared/training_plan.ts";
import { RUN_FLAGS } from "./_run_flags.ts";

const CASES = "full:8,slice:8,core:4,core:8,core:16,core:8:base,core:8:shared,core:8:base:shared";

const FLAGS = {
  ...TUNING_FLAGS,
  steps: { ...TUNING_FLAGS.steps, default: 120 },
  targets: { ...TUNING_FLAGS.targets, default: "q,v" },
  cases: text("LIST", CASES, "mode:rank, with :base and :shared behind for frozen projections"),
  factors: text("LIST", "0.3,1,3", "learning rates to try, as factors of that of the mode"),
  ...RUN_FLAGS,
};

const PROGRAM = {
  name: "bench_rank_space.ts",
  about: "Validation loss, bytes of a step, and a device's share, for each input mode.",
  examples: ["deno run -A bench/rank_space.ts --cases slice:8,core:8 --steps 60"],
};

/** Capacities of the devices that bytes are counted for. */
const CAPACITIES = [8, 5, 3];
/** How often a device's work in a layer is timed. */
const ROUNDS = 9;

function settingsOf(name: string, flags: Parameters<typeof tuningSettings>[0]): RunSettings {
  const [mode = "", rank = "", ...more] = name.split(":");
  const isKnown = INPUT_MODE_NAMES.includes(mode as InputModeName) && Number(rank) >= 1 &&
    more.every((word) => word === "base" || word === "shared");
  if (!isKnown) throw new UsageError(`Cannot run a case as it must be such as core:8:base: "${name}" is not`);
  return tuningSettings({
    ...flags,
    ...{ mode, rank: Number(rank), "shared-a": more.includes("shared") },
    projections: more.includes("base") ? "base" : "seed",
  });
}

/** Milliseconds of one layer, there and back, on a device with so many heads: the median. */
async function layerMs(engine: Engine, modules: HeadModules, tokens: number): Promise<number> {
  const { range: { count }, lora } = modules.options;
  const kept = Array.from({ length: count }, (_, i) => i);
  const { rows, columns } = inputRows(modules.input.shape(count, tokens, modules.size));
  const width = modules.input.deltaColumns(modules.size);
  const x = new Float32Array(rows * columns).fill(0.1);
  const g = new Float32Array(count * tokens * width).fill(0.1);
  const times: number[] = [];
  for (let round = 0; round < ROUNDS + 2; round++) {
    const started = performance.now();
    const input = engine.upload(x, rows, columns, "input");
    const deltas = modules.forward(0, kept, input, { step: 0, mode: "train", ownsInput: true });
    await engine.read(deltas);
    for (const delta of deltas) delta.dispose();
    const gradients = lora.targets.map(() => engine.upload(g, count * tokens, width, "gradient"));
    using dx = modules.backward(0, gradients, { step: 0, needsInput: true });
    await engine.read([dx!]);
    times.push(performance.now() - started);
  }
  return times.slice(2).sort((a, b) => a - b)[Math.floor(ROUNDS / 2)]!;
}

async function main(): Promise<void> {
  const { flags } = await readFitted(PROGRAM, FLAGS, OWN_CALL);
  const factors = flags.factors.split(",").map(Number);
  const { model, tokenizer } = await openModel(flags.model, flags);
  const load = (file: string) => loadTrainingSet(file, { ...flags, encoder: tokenizer });
  const [set, valid] = [await load(flags.data), await load(flags.valid)];
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  const { layers, heads, hidden } = base.shape;
  const shape = shapeForDevices(base.shape);
  const ranges = allocateHeads(heads, CAPACITIES);
  const tokens = flags.batch * flags.length;
  const results: Record<string, unknown>[] = [];
  console.log(`${layers} layers, ${heads} heads, d ${hidden}; ${flags.steps} steps of ${tokens} tokens`);
  console.log(
    "| case | trained | validation loss | rate | MB a step, heads | device weights, KB | device ms a layer |",
  );
  console.log("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
  for (const name of flags.cases.split(",")) {
    const given = settingsOf(name, flags);
    const projections = await baseProjections(model, given.lora);
    const losses: { readonly rate: number; readonly loss: number | null }[] = [];
    for (const factor of factors) {
      const rate = Number(
        (factor * INPUT_MODES[given.lora.mode].learningRate({ heads, hidden })).toPrecision(2),
      );
      const settings = { ...given, optimizer: { ...given.optimizer, learningRate: rate } };
      const source = await TrainingPlan.create({ set, valid, ...planOptions(flags) });
      using training = new LocalTraining({ engine, base, ends, projections, settings, source });
      const loss = await training.trainer.run().then(({ losses }) => losses!.after, (error) => {
        if (error instanceof TrainingError) return null;
        throw error;
      });
      losses.push({ rate, loss });
      console.error(`${name} at ${rate}: ${loss?.toFixed(4) ?? "not finite"}`);
    }
    const best = losses.reduce((a, b) => (b.loss ?? Infinity) < (a.loss ?? Infinity) ? b : a);
    const traffic = stepTraffic({
      ...modeSize(given.lora, shape),
      ...{ layers, tokens, batch: flags.batch, mode: given.lora.mode, statistics: 0 },
      headsPerDevice: ranges.map(({ count }) => count),
      mask: new Uint8Array(layers * heads),
    });
    const kinds = ["input", "delta", "deltaGradient", "inputGradient"] as const;
    const bytes = kinds.reduce((sum, kind) => sum + (traffic.get(kind) ?? 0), 0);
    using device = new HeadModules(engine, { ...given, ...shape, range: ranges[0]! });
    const ms = await layerMs(engine, device, tokens);
    const trained = layers * heads * headParameters(given.lora, shape);
    const kilobytes = 4 * device.parameterCount / 1000;
    results.push({ name, trained, losses, bytes, kilobytes, ms });
    console.log(
      `| ${name} | ${trained} | ${best.loss?.toFixed(3) ?? "-"} | ${best.rate} | ${
        (bytes / 1e6).toFixed(2)
      } | ${kilobytes.toFixed(1)} | ${ms.toFixed(1)} |`,
    );
  }
  await writeReport(flags.report, { settings: flags, adapter: engine.adapterName, results });
}

await runProgram(main);
