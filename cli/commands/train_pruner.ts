/**
 * Trains iHeadPruner's importance predictor: collects what unpruned steps show, fits the network to it, and
 * says how well it predicts steps that it has not seen.
 *
 * ```sh
 * edgetuner train-pruner
 * ```
 *
 * @module
 */

import {
  comparePredictors,
  DEFAULT_PREDICTOR_SIZES,
  initialPredictor,
  loadSamples,
  meanLabel,
  modelShape,
  type PrunerSample,
  type SampleSet,
  savePredictor,
  splitSteps,
  splitWindows,
  trackSamples,
  type TrainingCounts,
  trainPredictor,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { CollectedSamples } from "../shared/collected_samples.ts";
import { type FlagValues, integer, text, UsageError } from "../flags/flags.ts";
import { Interrupts, isInterrupted } from "../process/interrupts.ts";
import { loadLocalModel, localRun } from "../shared/local_run.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { bytes, duration, ProgressBar } from "../output/progress.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import { chosenText, type FittedFlags, readFitted } from "../shared/fitting.ts";
import { DATA_FLAGS, EPOCHS_FLAG } from "../shared/training_data.ts";
import { PLAN_FLAGS } from "../shared/training_plan.ts";
import { INTERRUPTED } from "../process/supervisor.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { tellDone } from "../output/run_end.ts";
import { commandText, shownPath } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import { PRUNER_FLAGS } from "../flags/pruners.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";
import { loadTold } from "../shared/opened_model.ts";

/** Shares of each run's steps, the last ones, to stop by and to report on. */
const HELD_OUT = { valid: 0.15, test: 0.15 };

/** Its flags. */
export const FLAGS = {
  ...TUNING_FLAGS,
  steps: {
    ...TUNING_FLAGS.steps,
    min: 0,
    help: "samples to have of each run; 0 = train on what the file holds",
  },
  runs: integer("N", 2, "runs, each with the next seed", { min: 1 }),
  samples: text(
    "FILE",
    "runs/pruner_samples.bin",
    "file of samples; one that exists is appended to, and an interrupted collection goes on",
  ),
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  batch: COMMON_FLAGS.batch,
  length: COMMON_FLAGS.length,
  smoothing: PLAN_FLAGS.smoothing,
  capacities: { ...COMMON_FLAGS.capacities, help: "capacities of the devices" },
  history: integer("K", 10, "steps that the predictor sees", { min: 1 }),
  lambda: {
    ...PRUNER_FLAGS.lambda,
    min: 1e-6,
    help: "smoothing of the importance: weight of the newest step",
  },
  epochs: {
    ...EPOCHS_FLAG.epochs,
    kind: "integer" as const,
    default: 60,
    min: 1,
    value: "N",
    help: "most passes over the samples",
  },
  webgpu: COMMON_FLAGS.webgpu,
  out: { ...COMMON_FLAGS.out, default: "runs/predictor", help: "folder for the predictor" },
  report: COMMON_FLAGS.report,
};

type Flags = FlagValues<typeof FLAGS>;

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** Samples that the file holds already; none if there is no such file. */
async function existingSamples(
  flags: Flags,
  { isModelGiven }: { readonly isModelGiven: boolean },
): Promise<SampleSet | null> {
  if (!await exists(flags.samples)) return null;
  const set = await loadSamples(flags.samples);
  // With `--steps 0` the file alone says what is trained.
  if (flags.steps === 0 && !isModelGiven) return set;
  const { fingerprint } = await loadTold(flags.model);
  if (set.source.fingerprint !== fingerprint) {
    throw new UsageError(
      `Cannot use ${flags.samples} as its samples must be of ${flags.model}: their model has fingerprint ${
        set.source.fingerprint.slice(0, 12)
      }, this one ${fingerprint.slice(0, 12)}; remove the file or name another one`,
    );
  }
  return set;
}

/** Samples of a run that give at least one window in each part of it. */
function leastSamples(history: number): number {
  const isEnough = (count: number) =>
    Object.values(splitSteps(count, HELD_OUT)).every((steps) => steps > history);
  // Parts are rounded: one sample more may make one of them shorter again, but only by one.
  let least = 1;
  for (let count = 1; count < least + 20; count++) if (!isEnough(count)) least = count + 1;
  return least;
}

/** Refuses what is too little to train on, before hours of collecting. */
function requireSamples(flags: Flags, set: SampleSet | null): void {
  const least = leastSamples(flags.history);
  const longest = set === null ? 0 : Math.max(0, ...trackSamples(set, flags.lambda).map((run) => run.length));
  if (Math.max(flags.steps, longest) >= least) return;
  const held = set === null ? "there is no such file" : `its longest run without a gap has ${longest}`;
  throw new UsageError(
    flags.steps > 0
      ? `Cannot train a predictor as --steps must be at least ${least} with --history ${flags.history}: current value is ${flags.steps}`
      : `Cannot train a predictor as ${flags.samples} must hold at least ${least} samples of a run with --history ${flags.history}: ${held}`,
  );
}

/**
 * Runs fine-tuning with every head kept until the file holds all samples that were asked for.
 *
 * @returns What became of the data; `null` if nothing had to be run.
 */
async function collect(
  flags: Flags,
  engine: Engine,
  existing: readonly PrunerSample[],
): Promise<TrainingCounts | null> {
  let counts: TrainingCounts | null = null;
  for (let run = 0; run < flags.runs; run++) {
    const seed = flags.seed + run;
    const there = existing.filter((sample) => sample.seed === seed).length;
    if (there >= flags.steps) continue;
    if (there > 0) {
      console.error(`Run of seed ${seed}: ${there} samples are there; its steps are run again up to there`);
    }
    // Neither the first nor the last step of a run gives a sample.
    const options = {
      ...flags,
      baseWeights: baseWeightsOf(flags),
      padToMultipleOf: flags["pad-to-multiple-of"],
      capacities: flags.capacities.split(",").map(Number),
      settings: { ...tuningSettings({ ...flags, steps: flags.steps + 2 }), seed },
    };
    const local = await loadLocalModel(options);
    counts = local.set.counts;
    const { config, fingerprint } = local.model;
    using collected = new CollectedSamples(
      flags.samples,
      { hidden: modelShape(config).hidden, fingerprint, baseNorm: local.baseNorm },
      existing,
    );
    const bar = new ProgressBar(options.settings.steps, { unit: "step" });
    await localRun(engine, local, {
      ...options,
      pruner: collected.pruner,
      onEvent(event) {
        if (event.type !== "step") return;
        const size = collected.count === null
          ? ""
          : `  ${collected.count} samples, ${bytes(collected.bytes!)}`;
        bar.draw(event.step + 1, `seed ${seed}  loss ${event.loss!.toFixed(3)}${size}`);
      },
    });
    bar.end();
  }
  return counts;
}

const PROGRAM = {
  name: "train_pruner.ts",
  about: "Collects samples in an unpruned run and trains iHeadPruner's importance predictor on them.",
  examples: [
    "edgetuner train-pruner --out runs/predictor   # for the tiny model that comes with the command",
    "edgetuner train-pruner --model MODEL --data DATA --out runs/predictor",
    "edgetuner serve --pruner none --collect runs/s.bin   # samples of a networked run; then",
    "edgetuner train-pruner --samples runs/s.bin --steps 0 --out runs/predictor",
    "edgetuner demo --pruner iheadpruner --predictor runs/predictor",
  ],
};

async function readOptions(call: Call): Promise<FittedFlags<typeof FLAGS>> {
  return await readFitted(PROGRAM, FLAGS, call, { isNeeded: ({ steps }) => steps > 0 });
}

async function main({ given, flags, chosen }: FittedFlags<typeof FLAGS>, call: Call): Promise<number> {
  await requireWritable("train_pruner.ts", {
    files: { report: flags.report, ...(flags.steps > 0 ? { samples: flags.samples } : {}) },
    folders: { out: flags.out },
  });
  const existing = await existingSamples(flags, { isModelGiven: given.model !== undefined });
  requireSamples(flags, existing);
  const told = chosenText(chosen);
  if (told !== null) console.error(told);
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const counts = flags.steps > 0 ? await collect(flags, engine, existing?.samples ?? []) : null;
  const set = await loadSamples(flags.samples);
  const windows = await windowsOf(flags, set, counts);
  // While samples are collected each is in the file at once; of the training there is something to save.
  using interrupts = new Interrupts();
  const trained = await train(flags, engine, set, windows);
  if (interrupts.asked && trained.best.epoch === 0) return INTERRUPTED;
  const { baseNorm } = set.source;
  const heldOut = comparePredictors(trained.predictor, windows.test, {
    baseNorm,
    meanLabel: meanLabel(windows.train),
  });
  tellQuality(flags, heldOut);
  const isSaved = await save(flags, set, trained, heldOut);
  const { epochs, best } = trained;
  await writeReport(flags.report, {
    versions: versions(),
    adapter: engine.adapterName,
    settings: flags,
    data: counts === null ? null : { train: counts },
    samples: set.samples.length,
    windows: { train: windows.train.length, valid: windows.valid.length, test: windows.test.length },
    epochs: epochs.length - 1,
    best,
    heldOut,
    peakMemoryBytes: peakMemory(),
  });
  const isOfModel = given.model !== undefined || flags.steps > 0 || await isSamplesOf(flags.model, set);
  tellTrained(flags, { ...trained, isSaved, model: isOfModel ? shownPath(flags.model) : "MODEL" }, call);
  return interrupts.asked ? INTERRUPTED : 0;
}

/** Windows of the samples: to train on, to stop by, and to report on. */
async function windowsOf(flags: Flags, set: SampleSet, counts: TrainingCounts | null) {
  const { layers, heads, settings } = set.source;
  if (flags.steps > 0 && counts === null) {
    const how = settings === undefined ? "" : `, collected with ${JSON.stringify(settings)}`;
    console.error(`${flags.samples} holds all samples already; they are used as they are${how}`);
  }
  const runs = trackSamples(set, flags.lambda);
  const windows = splitWindows(runs, flags.history, HELD_OUT);
  const { size } = await Deno.stat(flags.samples);
  console.log(
    `${set.samples.length} samples in ${runs.length} ${
      runs.length === 1 ? "run" : "runs"
    } of ${layers} x ${heads} heads, ${bytes(size)}; windows: ${windows.train.length} to train on, ` +
      `${windows.valid.length} to stop by, ${windows.test.length} held out`,
  );
  return windows;
}

/** A predictor, and how it came to be. */
type Trained = Awaited<ReturnType<typeof train>>;

/** Fits the network to the windows, with a bar. */
async function train(
  flags: Flags,
  engine: Engine,
  { source }: SampleSet,
  windows: Awaited<ReturnType<typeof windowsOf>>,
) {
  const { layers, heads, hidden, baseNorm } = source;
  const { history, lambda } = flags;
  const config = { layers, heads, hidden, history, lambda, ...DEFAULT_PREDICTOR_SIZES };
  const bar = new ProgressBar(flags.epochs, { unit: "epoch" });
  const started = performance.now();
  const start = initialPredictor(config, flags.seed);
  const result = await trainPredictor(engine, start, { ...windows, baseNorm }, {
    epochs: flags.epochs,
    seed: flags.seed,
    shouldStop: isInterrupted,
    onEpoch: ({ epoch, train, valid }) =>
      bar.draw(epoch, `MSE ${train.toExponential(2)}, held out ${valid.toExponential(2)}`),
  });
  bar.end();
  return { ...result, seconds: (performance.now() - started) / 1000 };
}

/** How well the predictor does on steps that it has not seen, beside simpler ways. */
function tellQuality({ history }: Flags, result: ReturnType<typeof comparePredictors>): void {
  const rows = [
    ["predictor", result.predictor],
    [`mean of the last ${history} maps`, result.runningMean],
    ["last step's gradients", result.lastGradient],
    ["the same for all heads", result.uniform],
  ] as const;
  console.log("\nOn the held-out steps         MSE       rank correlation");
  for (const [name, { mse, spearman }] of rows) {
    console.log(`  ${name.padEnd(26)}  ${mse.toExponential(3)}  ${spearman.toFixed(3).padStart(6)}`);
  }
  const gain = 1 - result.predictor.mse / result.runningMean.mse;
  const percent = (100 * Math.abs(gain)).toFixed(1);
  console.log(
    gain > 0
      ? `The predictor's error is ${percent} % below that of the running mean.`
      : `The predictor is no better than the running mean (${percent} % more error): collect more samples.`,
  );
}

/**
 * Saves the predictor, unless nothing was learnt and one is there.
 *
 * @returns True if it was saved.
 */
async function save(
  flags: Flags,
  set: SampleSet,
  { predictor, best }: Trained,
  heldOut: ReturnType<typeof comparePredictors>,
): Promise<boolean> {
  // Nothing was learnt in this case: the predictor is the running mean still.
  if (best.epoch === 0 && await exists(`${flags.out}/model.safetensors`)) return false;
  const { fingerprint, headsPerDevice, capacities } = set.source;
  const previous = await savePredictor(flags.out, predictor, {
    trainedOn: { fingerprint, headsPerDevice, capacities, samples: set.samples.length, epoch: best.epoch },
    heldOut,
  });
  if (previous !== null) console.error(`The predictor that was there is kept: ${previous}`);
  return true;
}

/** True if the samples are those of a model. With `--steps 0` they may be of any. */
async function isSamplesOf(model: string, { source }: SampleSet): Promise<boolean> {
  return (await loadTold(model)).fingerprint === source.fingerprint;
}

/** How it went. The command to try next names the model that the samples are of. */
function tellTrained(
  flags: Flags,
  { epochs, best, seconds, isSaved, model }: Trained & { readonly isSaved: boolean; readonly model: string },
  { form }: Call,
): void {
  const [first, lowest] = [epochs[0]?.valid, epochs[best.epoch]?.valid];
  const errors = first === undefined || lowest === undefined
    ? ""
    : `, held-out error ${first.toExponential(2)} before and ${
      lowest.toExponential(2)
    } at its best, in epoch ${best.epoch}`;
  if (!isSaved) {
    console.error(
      `Saved nothing, as training found nothing better than it began with: ${flags.out} stays as it is`,
    );
  }
  tellDone({
    done: `${epochs.length - 1} epochs in ${duration(seconds)}${errors}`,
    saved: [
      ...(isSaved ? [`the predictor in ${flags.out}`] : []),
      `the samples in ${flags.samples}`,
      ...(flags.report === "" ? [] : [flags.report]),
    ],
    next: isSaved
      ? commandText("demo.ts", [
        ...["--model", model, "--pruner", "iheadpruner", "--predictor", flags.out],
      ], form)
      : "",
  });
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
