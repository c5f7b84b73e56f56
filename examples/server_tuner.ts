/**
 * ServerTuner: the same fine-tuning with everything on one machine. No privacy and no network: the
 * latency floor that the split is compared with.
 *
 * @module
 */

import {
  adapterOf,
  HeadModules,
  loadEnds,
  loadLayers,
  LocalData,
  LocalHeads,
  runStep,
  saveAdapter,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, readFlags, runProgram, text, toggle } from "./_support/flags.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "./_support/model_flags.ts";
import { ProgressBar } from "./_support/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "./_support/report.ts";
import { DATA_FLAGS, loadTrainingSet, paddingSaved, trainingBatches } from "./_support/training_data.ts";
import { TUNING_FLAGS, tuningSettings } from "./_support/tuning_flags.ts";
import { loadGpu, WEBGPU_CHOICES } from "./_support/webgpu.ts";

async function main(): Promise<void> {
  const flags = readFlags({
    name: "server_tuner.ts",
    about: "Fine-tunes on one machine, without a network: the floor that the split is compared with.",
    examples: ["deno run -A examples/server_tuner.ts --steps 50 --save runs/server_tuner"],
  }, {
    ...TUNING_FLAGS,
    model: MODEL_FLAG,
    tokenizer: TOKENIZER_FLAG,
    data: text(
      "FILE",
      new URL("./restaurant/train.txt", import.meta.url).pathname,
      "training data: MR||text lines, or JSONL",
    ),
    ...DATA_FLAGS,
    batch: integer("N", 8, "sequences per step", { min: 1 }),
    length: integer("N", 80, "tokens per sequence", { min: 2 }),
    webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
    save: text("DIR", "", "folder for the adapter"),
    events: toggle("print what happens as JSON lines"),
    report: text("FILE", "", "write a report as JSON"),
  });
  const { model, tokenizer } = await openModel(flags);
  const set = await loadTrainingSet(flags.data, { ...flags, tokenizer });
  const batches = trainingBatches(set, flags);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  using base = loadLayers(engine, model);
  using ends = loadEnds(engine, model);
  const { layers, heads, hidden } = base.shape;
  const settings = tuningSettings(flags);
  const modules = new HeadModules(engine, {
    ...settings,
    layers,
    heads,
    hidden,
    range: { first: 0, count: heads },
  });
  using local = new LocalHeads([modules]);
  const data = new LocalData(ends, { labelSmoothing: 0.1 }, () => ({ batch: batches.next(), mode: "train" }));
  const bar = new ProgressBar(flags.steps, flags.events ? false : undefined);
  const log = new MemoryLog();
  const steps: { step: number; loss: number | null; ms: number }[] = [];
  for (let step = 0; step < flags.steps; step++) {
    const started = performance.now();
    const batch = (await data.next(step))!;
    const { loss } = await runStep(
      { engine, base, heads: local, data },
      step,
      batch,
      new Uint8Array(layers * heads),
    );
    await engine.idle();
    const ms = performance.now() - started;
    steps.push({ step, loss, ms });
    log.sample(step);
    bar.draw(step + 1, `loss ${loss!.toFixed(3)}  ${(ms / 1000).toFixed(2)} s/step`);
  }
  bar.end();
  if (flags.save !== "") await saveAdapter(flags.save, await adapterOf(modules, model.fingerprint));
  const report = {
    versions: versions(),
    adapter: engine.adapterName,
    settings: flags,
    steps,
    padding: paddingSaved(batches),
    memory: log.samples,
    peakMemoryBytes: peakMemory(),
  };
  await writeReport(flags.report, report);
  if (flags.events) console.log(JSON.stringify({ type: "done", ...report }));
  else {
    const saved = paddingSaved(batches);
    console.log(
      `${flags.steps} steps, last loss ${steps.at(-1)!.loss!.toFixed(3)}, on ${engine.adapterName}${
        saved === null ? "" : `; ${saved.text}`
      }`,
    );
  }
}

if (import.meta.main) await runProgram(main);
