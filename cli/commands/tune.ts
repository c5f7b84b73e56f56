/**
 * ServerTuner: the same fine-tuning with everything on one machine. No privacy and no network: the
 * latency floor that the split is compared with.
 *
 * @module
 */

import {
  adapterOf,
  checkRunSettings,
  loadEmbeddingAndHead,
  loadLayers,
  LocalTraining,
  openModel,
  parameterCount,
  requireSameRun,
  type RunCheckpoint,
  saveAdapter,
  saveHeads,
  type SavingPort,
  type TrainerEvent,
  TrainingPlan,
  type TrainingSummary,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, readFlags } from "../flags/flags.ts";
import { Interrupts, isInterrupted } from "../process/interrupts.ts";
import { MetricsLog } from "../output/metrics.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { ProgressBar } from "../output/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "../output/report.ts";
import {
  checkpointFlags,
  countParameters,
  LAUNCHER_FLAGS,
  openRunCheckpoints,
  parameterText,
  PROGRESS_FLAGS,
  requireFlag,
  RUN_FLAGS,
  runSettings,
  savingReport,
} from "../flags/run_flags.ts";
import {
  type AllCounts,
  DATA_FLAGS,
  EPOCHS_FLAG,
  loadTrainingSet,
  withEpochs,
} from "../shared/training_data.ts";
import { paddingSaved, PLAN_FLAGS, planOptions } from "../shared/training_plan.ts";
import { endedBy, goOnCommand, savedState, tellEnd } from "../output/run_end.ts";
import { Rows } from "../output/rows.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { requireWritable } from "../process/writable.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { commandText, shownPath } from "../process/places.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

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
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  ...EPOCHS_FLAG,
  ...PLAN_FLAGS,
  batch: { ...COMMON_FLAGS.batch, help: "sequences per step, or per part of a step" },
  length: COMMON_FLAGS.length,
  webgpu: COMMON_FLAGS.webgpu,
  save: COMMON_FLAGS.save,
  ...LAUNCHER_FLAGS,
  ...PROGRESS_FLAGS,
  events: COMMON_FLAGS.events,
  metrics: {
    ...COMMON_FLAGS.metrics,
    help: "write metrics.csv and metrics.jsonl, a row as each step or validation ends",
  },
  report: COMMON_FLAGS.report,
};

type Flags = FlagValues<typeof FLAGS>;

async function readOptions(call: Call): Promise<{ readonly flags: Flags }> {
  const flags = readFlags(
    {
      name: "server_tuner.ts",
      about: "Fine-tunes on one machine, without a network: the floor that the split is compared with.",
      examples: [
        "edgetuner tune --steps 50 --save runs/server_tuner",
        "edgetuner tune --resume   # the same command, after it was interrupted or killed",
        "edgetuner tune --valid cli/assets/restaurant/valid.txt --eval-every 50 --keep-best --save runs/a",
      ],
    },
    FLAGS,
    call,
  );
  requireFlag("server_tuner.ts", "eval-every", "valid", flags["eval-every"] === 0 || flags.valid !== "");
  requireFlag("server_tuner.ts", "keep-best", "valid", !flags["keep-best"] || flags.valid !== "");
  requireFlag("server_tuner.ts", "keep-best", "save", !flags["keep-best"] || flags.save !== "");
  await requireWritable("server_tuner.ts", {
    files: { report: flags.report },
    folders: { save: flags.save, metrics: flags.metrics },
  });
  return { flags: await withEpochs(flags) };
}

/** The model, its data, and which batch comes when. */
async function openData(flags: Flags) {
  const { model, tokenizer } = await openModel(flags.model, flags);
  const load = (file: string) => loadTrainingSet(file, { ...flags, tokenizer });
  const set = await load(flags.data);
  const valid = flags.valid === "" ? null : await load(flags.valid);
  const counts: AllCounts = { train: set.counts, valid: valid?.counts ?? null };
  return { model, counts, plan: await TrainingPlan.create({ set, valid, ...planOptions(flags) }) };
}

/** What is shown and written of a run while it goes on. */
class TuneLog implements Disposable {
  readonly memory = new MemoryLog();
  readonly steps: Rows;
  readonly #flags: Flags;
  readonly #metrics: MetricsLog | null;
  readonly #bar: ProgressBar;
  readonly #rateAt: (step: number) => number;
  /** The last validation, as the bar shows it. */
  validation = "";

  constructor(flags: Flags, isResumed: boolean, rateAt: (step: number) => number) {
    this.#flags = flags;
    this.#rateAt = rateAt;
    this.#metrics = flags.metrics === "" ? null : new MetricsLog(flags.metrics, isResumed);
    this.#bar = new ProgressBar(flags.steps, {
      isShown: !flags.events,
      everySeconds: flags["log-every"],
    });
    this.steps = Rows.of(flags.report, "steps");
  }

  hear(event: TrainerEvent): void {
    if (event.type === "finished") return this.#bar.end();
    const { step, loss, ms, tokens } = event;
    const shared = { rate: this.#rateAt(step), seconds: ms / 1000, tokens };
    if (event.type === "validation") {
      this.validation = `  validation ${event.loss.toFixed(3)}`;
      this.#metrics?.write({ step, mode: "evaluate", loss, ...shared, gradient_norm: null });
      if (this.#flags.events) console.log(JSON.stringify({ type: "validation", step, loss }));
      return;
    }
    if (event.mode === "evaluate") return;
    const norm = event.statistics.globalNorm ?? null;
    this.#metrics?.write({ step, mode: "train", loss, ...shared, gradient_norm: norm });
    this.steps.add({ step, loss, ms });
    if (this.#flags.events) console.log(JSON.stringify({ type: "step", step, loss, ms }));
    this.memory.sample(step);
    const text = `loss ${loss!.toFixed(3)}${this.validation}  ${(ms / 1000).toFixed(2)} s/step`;
    this.#bar.draw(step + 1, text);
  }

  [Symbol.dispose](): void {
    this.#metrics?.[Symbol.dispose]();
    this.steps[Symbol.dispose]();
  }
}

async function main({ flags }: { readonly flags: Flags }, call: Call): Promise<number> {
  const settings = checkRunSettings({ ...tuningSettings(flags), ...runSettings(flags) });
  const baseWeights = baseWeightsOf(flags);
  using checkpoints = await openRunCheckpoints(flags, { baseWeights, defaultFolder: STATE_FOLDER });
  const { resumed } = checkpoints;
  const checkpoint = resumed === null ? null : await resumed.load(resumed.steps.at(-1)!);
  const { model, counts, plan } = await openData(flags);
  const { fingerprint } = model;
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  const run = resumed?.run ?? crypto.randomUUID().slice(0, 8);
  const save = async (folder: string, steps: number) => {
    if (flags.save === "") return;
    if (steps === 0) return console.error(`Saved nothing to ${folder}, as there was no training step`);
    const adapter = await adapterOf(training.modules[0]!, fingerprint);
    const previous = await saveAdapter(folder, adapter, { run, steps });
    if (previous !== null) console.error(`The adapter of another run is kept: ${previous}`);
  };
  using _interrupts = new Interrupts();
  using training: LocalTraining = new LocalTraining({
    ...{ engine, base, ends, settings, source: plan },
    start: checkpoint?.step,
    shouldStop: isInterrupted,
    onEvent: (event) => log.hear(event),
    onBest: flags["keep-best"] ? (step) => save(`${flags.save}-best`, step) : undefined,
    saving: {
      ...savingOf(flags, checkpoint),
      read: async (step): Promise<RunCheckpoint> => ({
        ...{ run, step, settings, fingerprint, pruning: null, devices: null },
        heads: await saveHeads(training.modules[0]!),
        data: { fingerprint: plan.fingerprint, position: step, best: plan.bestBefore(step) },
      }),
      write: checkpoints.write ?? undefined,
    },
  });
  using log = new TuneLog(flags, checkpoint !== null, (step) => training.rateAt(step));
  if (checkpoint !== null) {
    const range = { first: 0, count: base.shape.heads };
    requireSameRun(checkpoint, { settings, range, fingerprint, dataFingerprint: plan.fingerprint });
    plan.resume(checkpoint.data!.best);
    training.modules[0]!.restore(checkpoint.heads!.state);
  }
  const parameters = countParameters(settings.lora, base.shape, parameterCount(model));
  if (!flags.events) console.log(parameterText(parameters));
  Object.assign(stateOfRun, { folder: checkpoints.folder ?? "", run });
  const summary = await training.trainer.run();
  await save(flags.save, summary.step);
  await report(flags, { summary, log, adapter: engine.adapterName }, {
    run,
    resumedFrom: checkpoint?.step ?? null,
    parameters,
    padding: paddingSaved(plan.padding),
    data: counts,
  });
  return await tellEnding(flags, summary, call);
}

/** Writes the report, and says how it went. */
async function report(
  flags: Flags,
  { summary, log, adapter }: {
    readonly summary: TrainingSummary;
    readonly log: TuneLog;
    readonly adapter: string;
  },
  facts: Record<string, unknown> & { readonly padding: ReturnType<typeof paddingSaved> },
): Promise<void> {
  const { steps, memory } = log;
  const { validations, best } = summary;
  const all = {
    ...{ versions: versions(), adapter, settings: flags, ...facts, steps, validations, best },
    saving: savingReport(summary.saving, summary.ms),
    memory: memory.samples,
    peakMemoryBytes: peakMemory(),
  };
  await writeReport(flags.report, all);
  if (flags.events) return console.log(JSON.stringify({ type: "done", ...all, steps: steps.count }));
  const where = facts.padding === null ? adapter : `${adapter}; ${facts.padding.text}`;
  tellResult(flags, summary, where, log);
}

/** When the state is saved. */
function savingOf(flags: Flags, checkpoint: RunCheckpoint | null): SavingPort<RunCheckpoint> {
  const steps = runSettings(flags).checkpointEvery;
  const saves = flags.checkpoint !== "" || flags.resume !== "";
  return {
    every: { steps, ms: saves ? flags["checkpoint-seconds"] * 1000 : 0 },
    saved: checkpoint?.step ?? null,
    // Steps give the event loop so few turns that it would be written much later.
    waits: true,
  };
}

/** How it went, for people. */
function tellResult(
  flags: Flags,
  { step, lastLoss, best }: TrainingSummary,
  where: string,
  log: TuneLog,
): void {
  const text = lastLoss === null ? "" : `, last loss ${lastLoss.toFixed(3)}`;
  console.log(`${step} steps${text}${log.validation.replace("  ", ", ")}, on ${where}`);
  if (best === null || best.step === 0 || !flags["keep-best"]) return;
  console.log(
    `Lowest validation loss ${best.loss.toFixed(3)} after ${best.step} steps: ${flags.save}-best`,
  );
}

/** Says how the run ended and what was saved; gives the exit code. */
async function tellEnding(flags: Flags, { step, losses, best }: TrainingSummary, call: Call) {
  const state = await savedState(stateOfRun.folder, stateOfRun.run);
  return tellEnd({
    ending: isInterrupted() ? "interrupted" : "done",
    why: isInterrupted() ? "interrupted" : "",
    done: `${step} steps`,
    losses,
    best,
    next: flags.save === "" ? "" : commandText("generate.ts", [
      ...["--model", shownPath(flags.model), "--adapter", flags.save, "--count", "3"],
    ], call.form),
    saved: [
      ...(flags.save === "" || step === 0 ? [] : [`the adapter in ${flags.save}`]),
      ...(state === null ? [] : [`the state of step ${state.step} in ${state.folder}`]),
    ],
    state,
    command: goOnCommand(call, "server_tuner.ts", state),
  }, flags.events);
}

/** Runs the command. */
export const run: CommandRun = command(
  readOptions,
  (options, call) =>
    main(options, call).catch((error) =>
      endedBy(call, "server_tuner.ts", error, { ...stateOfRun, ...options })
    ),
);
