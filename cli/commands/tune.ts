/**
 * ServerTuner: the same fine-tuning with everything on one machine. No privacy and no network: the
 * latency floor that the split is compared with.
 *
 * @module
 */

import {
  adamwAt,
  adapterOf,
  BackgroundSaver,
  checkRunSettings,
  HeadModules,
  loadEnds,
  loadLayers,
  LocalData,
  LocalHeads,
  parameterCount,
  requireSameRun,
  type RunCheckpoint,
  runStep,
  saveAdapter,
  saveHeads,
  SaveSchedule,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { integer, readFlags, text, toggle } from "../flags/flags.ts";
import { Interrupts, isInterrupted, untilInterrupted } from "../process/interrupts.ts";
import { MetricsLog } from "../output/metrics.ts";
import { MODEL_FLAG, openModel, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { ProgressBar } from "../output/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "../output/report.ts";
import {
  checkpointFlags,
  countParameters,
  LAUNCHER_FLAGS,
  openRunCheckpoints,
  parameterText,
  requireFlag,
  RUN_FLAGS,
  runSettings,
  savingReport,
} from "../flags/run_flags.ts";
import { type AllCounts, DATA_FLAGS, loadTrainingSet } from "../shared/training_data.ts";
import { PLAN_FLAGS, TrainingPlan } from "../shared/training_plan.ts";
import { endedBy, goOnCommand, lossesAtEnds, savedState, tellEnd } from "../output/run_end.ts";
import { Rows, Series } from "../output/rows.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { requireWritable } from "../process/writable.ts";
import { loadGpu, WEBGPU_CHOICES } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { assetPath } from "../process/places.ts";

/** Where the run saves its state, once it has begun; empty if nowhere. */
const stateOfRun = { folder: "", run: "" };

/** Where the state of a run goes if nobody says where. */
const STATE_FOLDER = "runs/server_tuner/state";

const FLAGS = {
  ...TUNING_FLAGS,
  ...RUN_FLAGS,
  ...checkpointFlags(STATE_FOLDER),
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: text(
    "FILE",
    assetPath("restaurant/train.txt"),
    "training data: MR||text lines, or JSONL",
  ),
  ...DATA_FLAGS,
  ...PLAN_FLAGS,
  batch: integer("N", 8, "sequences per step, or per part of a step", { min: 1 }),
  length: integer("N", 80, "tokens per sequence", { min: 2 }),
  webgpu: text("NAME", "deno", "WebGPU implementation", WEBGPU_CHOICES),
  save: text("DIR", "", "folder for the adapter"),
  ...LAUNCHER_FLAGS,
  events: toggle("print what happens as JSON lines"),
  metrics: text("DIR", "", "write metrics.csv and metrics.jsonl, a row as each step or validation ends"),
  report: text("FILE", "", "write a report as JSON"),
};

async function main(): Promise<number> {
  const flags = readFlags({
    name: "server_tuner.ts",
    about: "Fine-tunes on one machine, without a network: the floor that the split is compared with.",
    examples: [
      "deno run -A examples/server_tuner.ts --steps 50 --save runs/server_tuner",
      "deno run -A examples/server_tuner.ts --resume   # the same command, after it was interrupted or killed",
      "deno run -A examples/server_tuner.ts --valid cli/assets/restaurant/valid.txt --eval-every 50 --keep-best --save runs/a",
    ],
  }, FLAGS);
  requireFlag("server_tuner.ts", "eval-every", "valid", flags["eval-every"] === 0 || flags.valid !== "");
  requireFlag("server_tuner.ts", "keep-best", "valid", !flags["keep-best"] || flags.valid !== "");
  requireFlag("server_tuner.ts", "keep-best", "save", !flags["keep-best"] || flags.save !== "");
  await requireWritable("server_tuner.ts", {
    files: { report: flags.report },
    folders: { save: flags.save, metrics: flags.metrics },
  });
  const settings = checkRunSettings({ ...tuningSettings(flags), ...runSettings(flags) });
  using checkpoints = await openRunCheckpoints(flags, {
    baseWeights: baseWeightsOf(flags),
    defaultFolder: STATE_FOLDER,
  });
  const { resumed, write } = checkpoints;
  const checkpoint = resumed === null ? null : await resumed.load(resumed.steps.at(-1)!);
  const { model, tokenizer } = await openModel(flags);
  const load = (file: string) => loadTrainingSet(file, { ...flags, tokenizer });
  const set = await load(flags.data);
  const valid = flags.valid === "" ? null : await load(flags.valid);
  const counts: AllCounts = { train: set.counts, valid: valid?.counts ?? null };
  const plan = await TrainingPlan.create({
    ...{ set, valid },
    ...{ batch: flags.batch, seed: flags.seed, flags },
  });
  plan.begin(settings);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const baseWeights = baseWeightsOf(flags);
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEnds(engine, model, { baseWeights });
  const { layers, heads, hidden } = base.shape;
  const range = { first: 0, count: heads };
  if (checkpoint !== null) {
    const { fingerprint } = model;
    requireSameRun(checkpoint, { settings, range, fingerprint, dataFingerprint: plan.fingerprint });
    plan.resume(checkpoint.data!.best);
  }
  const modules = new HeadModules(engine, { ...settings, layers, heads, hidden, range });
  using local = new LocalHeads([modules], [], settings.clipNorm);
  if (checkpoint !== null) modules.restore(checkpoint.heads!.state);
  const parameters = countParameters(settings.lora, base.shape, parameterCount(model));
  if (!flags.events) console.log(parameterText(parameters));
  const smoothing = { train: { labelSmoothing: flags.smoothing }, evaluate: { labelSmoothing: 0 } };
  const source = (step: number) => {
    const next = plan.next(step);
    return next === null ? null : { ...next, loss: smoothing[next.mode] };
  };
  const data = new LocalData(ends, smoothing.train, source, settings.accumulate);
  const run = resumed?.run ?? crypto.randomUUID().slice(0, 8);
  let saved: number | null = checkpoint?.step ?? null;
  const saver = new BackgroundSaver();
  const schedule = new SaveSchedule({
    steps: settings.checkpointEvery,
    ms: write === null ? 0 : flags["checkpoint-seconds"] * 1000,
  });
  const saveRun = async (step: number) => {
    if (write === null || saved === step) return;
    saved = step;
    const read = async (): Promise<RunCheckpoint> => ({
      ...{ run, step, settings, fingerprint: model.fingerprint, heads: await saveHeads(modules) },
      ...{ pruning: null, devices: null },
      data: { fingerprint: plan.fingerprint, position: step, best: plan.bestBefore(step) },
    });
    await saver.save(read, write);
  };
  const save = async (folder: string, steps: number) => {
    if (flags.save === "") return;
    if (steps === 0) return console.error(`Saved nothing to ${folder}, as there was no training step`);
    const origin = { run, steps };
    const previous = await saveAdapter(folder, await adapterOf(modules, model.fingerprint), origin);
    if (previous !== null) console.error(`The adapter of another run is kept: ${previous}`);
  };

  using interrupts = new Interrupts();
  using metrics = flags.metrics === "" ? null : new MetricsLog(flags.metrics, checkpoint !== null);
  const bar = new ProgressBar(flags.steps, flags.events ? false : undefined);
  const log = new MemoryLog();
  using steps = Rows.of(flags.report, "steps");
  const losses = new Series();
  let step = checkpoint?.step ?? 0;
  let validText = "";
  Object.assign(stateOfRun, { folder: checkpoints.folder ?? "", run });
  const begun = performance.now();
  while (!interrupts.asked) {
    const started = performance.now();
    const batch = await data.next(step);
    if (plan.isBest() && flags["keep-best"] && step > 0) await save(`${flags.save}-best`, step);
    if (batch === null) break;
    const isSaved = batch.mode === "train" && schedule.isDue(step + 1);
    const context = { engine, base, heads: local, data, shouldStop: isInterrupted };
    const outcome = await untilInterrupted(() =>
      runStep(context, step, batch, new Uint8Array(layers * heads))
    );
    if (outcome === null) break;
    const { loss, tokens, statistics } = outcome;
    await engine.idle();
    const ms = performance.now() - started;
    const row = {
      rate: adamwAt(settings.optimizer, step, settings.steps).rate,
      seconds: ms / 1000,
      tokens,
      gradient_norm: statistics.globalNorm ?? null,
    };
    const validation = plan.onLoss(step, batch.mode, loss!);
    if (validation !== null) {
      metrics?.write({ step, mode: "evaluate", loss: validation, ...row });
      validText = `  validation ${validation.toFixed(3)}`;
      if (flags.events) console.log(JSON.stringify({ type: "validation", step, loss: validation }));
    }
    if (batch.mode === "evaluate") continue;
    metrics?.write({ step, mode: "train", loss, ...row });
    steps.add({ step, loss, ms });
    if (flags.events) console.log(JSON.stringify({ type: "step", step, loss, ms }));
    if (loss !== null) losses.push(loss);
    log.sample(step);
    step++;
    bar.draw(step, `loss ${loss!.toFixed(3)}${validText}  ${(ms / 1000).toFixed(2)} s/step`);
    if (isSaved) {
      await saveRun(step);
      // Steps give the event loop so few turns that it would be written much later.
      await saver.settled();
    }
    schedule.took(performance.now() - started, isSaved);
  }
  bar.end();
  await saveRun(step);
  await saver.settled();
  await save(flags.save, step);
  const saving = savingReport(saver.times, performance.now() - begun);
  const report = {
    versions: versions(),
    adapter: engine.adapterName,
    settings: flags,
    run,
    resumedFrom: checkpoint?.step ?? null,
    parameters,
    steps,
    validations: plan.validations,
    best: plan.best,
    padding: plan.padding,
    data: counts,
    saving,
    memory: log.samples,
    peakMemoryBytes: peakMemory(),
  };
  await writeReport(flags.report, report);
  if (flags.events) console.log(JSON.stringify({ type: "done", ...report, steps: steps.count }));
  else {
    const last = losses.values.at(-1);
    const text = last === undefined ? "" : `, last loss ${last.toFixed(3)}`;
    const padding = plan.padding === null ? "" : `; ${plan.padding.text}`;
    console.log(`${step} steps${text}${validText.replace("  ", ", ")}, on ${engine.adapterName}${padding}`);
    if (plan.best !== null && plan.best.step > 0 && flags["keep-best"]) {
      console.log(
        `Lowest validation loss ${
          plan.best.loss.toFixed(3)
        } after ${plan.best.step} steps: ${flags.save}-best`,
      );
    }
  }
  const state = await savedState(stateOfRun.folder, stateOfRun.run);
  return tellEnd({
    ending: interrupts.asked ? "interrupted" : "done",
    why: interrupts.asked ? "interrupted" : "",
    done: `${step} steps`,
    losses: lossesAtEnds(plan.validations.map(({ loss }) => loss), [...losses.values]),
    saved: [
      ...(flags.save === "" || step === 0 ? [] : [`the adapter in ${flags.save}`]),
      ...(state === null ? [] : [`the state of step ${state.step} in ${state.folder}`]),
    ],
    state,
    command: goOnCommand("server_tuner.ts", state),
  }, flags.events);
}

/**
 * Runs the command with the flags of the command line.
 *
 * @returns Its exit code.
 */
export async function run(): Promise<number | void> {
  return await main().catch((error) => endedBy("server_tuner.ts", error, stateOfRun));
}
