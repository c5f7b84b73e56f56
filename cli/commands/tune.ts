/**
 * ServerTuner: the same fine-tuning with everything on one machine. No privacy and no network: the
 * latency floor that the split is compared with.
 *
 * @module
 */

import {
  type Adapter,
  adapterOf,
  baseProjections,
  checkRunSettings,
  type HeadProjections,
  loadEmbeddingAndHead,
  loadIntoModules,
  loadLayers,
  LocalTraining,
  parameterCount,
  requireSameRun,
  type RunState,
  saveAdapter,
  saveHeads,
  type SavingPort,
  type TrainerEvent,
  TrainingPlan,
  type TrainingSummary,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { fitting, type FlagValues, UsageError } from "../flags/flags.ts";
import { Interrupts, isInterrupted } from "../process/interrupts.ts";
import { MetricsLog } from "../output/metrics.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import { ProgressBar } from "../output/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "../output/report.ts";
import {
  claimRunStates,
  countParameters,
  LAUNCHER_FLAGS,
  parameterText,
  PROGRESS_FLAGS,
  requireFlag,
  RUN_FLAGS,
  runSettings,
  type RunStates,
  savingReport,
  stateFlags,
} from "../flags/run_flags.ts";
import {
  type AllCounts,
  beginOf,
  DATA_FLAGS,
  EPOCHS_FLAG,
  loadTrainingSet,
  withEpochs,
} from "../shared/training_data.ts";
import { paddingSaved, PLAN_FLAGS, planOptions, requirePlan } from "../shared/training_plan.ts";
import { endedBy, goOnCommand, savedState, tellEnd } from "../output/run_end.ts";
import { Rows } from "../output/rows.ts";
import { keptIn, stepTexts } from "../output/step_text.ts";
import { TOTAL_RANK_FLAG, TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import { requireWritable } from "../process/writable.ts";
import { openEngine } from "../flags/webgpu.ts";
import { START_FLAG, withAdapter } from "../shared/starting_adapter.ts";
import { loadAdapterParts } from "../shared/texts.ts";
import { type ChosenFlags, rankText, readFitted, tellSettings, withoutRank } from "../shared/fitting.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { commandText, exampleFile, shownPath } from "../process/places.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";
import { openTold } from "../shared/opened_model.ts";

/** Where the state of a run goes if nobody says where. */
const STATE_FOLDER = "runs/server_tuner/state";

const FLAGS = {
  ...TUNING_FLAGS,
  ...RUN_FLAGS,
  ...stateFlags(STATE_FOLDER),
  model: MODEL_FLAG,
  tokenizer: TOKENIZER_FLAG,
  ...WEIGHTS_FLAG,
  data: COMMON_FLAGS.data,
  ...DATA_FLAGS,
  ...EPOCHS_FLAG,
  ...PLAN_FLAGS,
  batch: fitting({ ...COMMON_FLAGS.batch, help: "sequences per step, or per part of a step" }),
  length: fitting(COMMON_FLAGS.length),
  webgpu: COMMON_FLAGS.webgpu,
  "gpu-mb": COMMON_FLAGS["gpu-mb"],
  save: COMMON_FLAGS.save,
  ...TOTAL_RANK_FLAG,
  ...START_FLAG,
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

const PROGRAM = {
  name: "server_tuner.ts",
  about: "Fine-tunes on one machine, without a network: the floor that the split is compared with.",
  examples: [
    "edgetuner tune --steps 50 --save runs/server_tuner",
    "edgetuner tune --resume   # the same command, after it was interrupted or killed",
    `edgetuner tune --valid ${exampleFile("restaurant/valid.txt")} --eval-every 50 --keep-best --save runs/a`,
  ],
};

/** The flags, checked. */
interface Options {
  readonly flags: Flags;
  /** Those that were chosen to fit the model. */
  readonly chosen: ChosenFlags;
  /** What a new run begins with. */
  readonly adapter: Adapter | null;
}

async function readOptions(call: Call): Promise<Options> {
  const fitted = await readFitted(PROGRAM, FLAGS, call);
  const adapter = await loadAdapterParts(fitted.flags.adapter);
  const flags = withAdapter("server_tuner.ts", fitted, adapter);
  const chosen = adapter === null ? fitted.chosen : withoutRank(fitted.chosen);
  requirePlan("server_tuner.ts", flags);
  requireFlag("server_tuner.ts", {
    flag: "keep-best",
    needs: "save",
    isMet: !flags["keep-best"] || flags.save !== "",
  });
  await requireWritable("server_tuner.ts", {
    files: { report: flags.report },
    folders: { save: flags.save, metrics: flags.metrics },
  });
  return { flags: await withEpochs(flags), chosen, adapter };
}

/** The model, its data, and which batch comes when. */
async function openData(flags: Flags, saved: string | undefined) {
  const { model, tokenizer } = await openTold(flags.model, flags);
  const { begun, now } = beginOf(saved);
  const load = (file: string) => loadTrainingSet(file, { ...flags, encoder: tokenizer, now });
  const set = await load(flags.data);
  const valid = flags.valid === "" ? null : await load(flags.valid);
  const counts: AllCounts = { train: set.counts, valid: valid?.counts ?? null };
  return { model, counts, begun, plan: await TrainingPlan.create({ set, valid, ...planOptions(flags) }) };
}

/** Figures that the run itself knows. */
interface TuneFigures {
  /** Learning rate of a step. */
  readonly rate: (step: number) => number;
  /** Bytes that the adapter holds for this process. */
  readonly heldBytes: () => number;
  /** All heads of all layers. */
  readonly heads: number;
}

/** What is shown and written of a run while it goes on. */
class TuneLog implements Disposable {
  readonly memory = new MemoryLog();
  readonly steps: Rows;
  readonly #flags: Flags;
  readonly #metrics: MetricsLog | null;
  readonly #bar: ProgressBar;
  readonly #figures: TuneFigures;
  /** The last validation; `null` before the first. */
  #validation: number | null = null;

  constructor(flags: Flags, { state }: Started, figures: TuneFigures) {
    this.#flags = flags;
    this.#figures = figures;
    this.#metrics = flags.metrics === "" ? null : new MetricsLog(flags.metrics, {
      resumed: state !== null,
    });
    this.#bar = new ProgressBar(flags.steps, {
      isShown: !flags.events,
      everySeconds: flags["log-every"],
    });
    this.steps = Rows.of(flags.report, "steps");
  }

  hear(event: TrainerEvent): void {
    if (event.type === "finished") return this.#bar.end();
    const { step, loss, ms, tokens } = event;
    const shared = { rate: this.#figures.rate(step), seconds: ms / 1000, tokens };
    if (event.type === "validation") {
      this.#validation = event.loss;
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
    const { heldBytes, heads } = this.#figures;
    this.#bar.draw(
      step + 1,
      stepTexts({
        loss,
        validation: this.#validation,
        seconds: ms / 1000,
        traffic: { bytes: heldBytes(), unit: " held" },
        kept: heads - event.decision.mask.length + keptIn(event.decision.mask),
        heads,
      }),
    );
  }

  [Symbol.dispose](): void {
    this.#metrics?.[Symbol.dispose]();
    this.steps[Symbol.dispose]();
  }
}

/** A run that may go on from a saved state. */
interface Started {
  /** Its name. */
  readonly run: string;
  /** Where its state goes; empty if nowhere. */
  readonly folder: string;
  /** What it goes on from; `null` in a new run. */
  readonly state: RunState | null;
  readonly write: RunStates["write"];
}

async function startOf({ resumed, folder, write }: RunStates): Promise<Started> {
  const state = resumed === null ? null : await resumed.load(resumed.steps.at(-1)!);
  return { run: resumed?.run ?? crypto.randomUUID().slice(0, 8), folder: folder ?? "", state, write };
}

async function main({ flags, ...others }: Options, call: Call): Promise<number> {
  const baseWeights = baseWeightsOf(flags);
  using states = await claimRunStates(flags, { baseWeights, defaultFolder: STATE_FOLDER });
  const started = await startOf(states);
  try {
    return await tune({ flags, ...others }, started, call);
  } catch (error) {
    return await endedBy(call, "server_tuner.ts", error, { ...started, flags });
  }
}

/** Opens model and data, runs the steps, and tells how it went. */
async function tune({ flags, chosen, adapter }: Options, started: Started, call: Call): Promise<number> {
  const baseWeights = baseWeightsOf(flags);
  const data = await openData(flags, started.state?.data?.begun);
  const { model, plan } = data;
  using engine = await openEngine(flags);
  using base = loadLayers(engine, model, { baseWeights });
  using ends = loadEmbeddingAndHead(engine, model, { baseWeights });
  using log = new TuneLog(flags, started, {
    rate: (step) => training.rateAt(step),
    heldBytes: () => engine.stats.allocatedBytes,
    heads: base.shape.layers * base.shape.heads,
  });
  using _interrupts = new Interrupts();
  using training: LocalTraining = buildRun(flags, started, {
    ...{ engine, base, ends, data, log, adapter },
    projections: await baseProjections(model, settingsOf(flags).lora),
  });
  const { lora } = settingsOf(flags);
  const parameters = countParameters(lora, base.shape, parameterCount(model));
  if (!flags.events) tellSettings(chosen, parameterText(parameters), rankText(model.config, lora));
  const summary = await training.trainer.run();
  await saveTo(flags.save, summary.step, {
    flags,
    training,
    run: started.run,
    fingerprint: model.fingerprint,
  });
  await report(flags, { summary, log, adapter: engine.adapterName }, {
    run: started.run,
    resumedFrom: started.state?.step ?? null,
    parameters,
    padding: paddingSaved(plan.padding),
    data: data.counts,
  });
  return await tellEnding(flags, summary, { started, call });
}

/** The settings that the flags ask for. */
function settingsOf(flags: Flags): ReturnType<typeof checkRunSettings> {
  return checkRunSettings({ ...tuningSettings(flags), ...runSettings(flags) });
}

/** Puts the run together; where it goes on, with what was learnt before. */
function buildRun(
  flags: Flags,
  { run, state, write }: Started,
  { engine, base, ends, data: { model, plan, begun }, log, adapter, projections }: {
    readonly engine: Engine;
    readonly base: ReturnType<typeof loadLayers>;
    readonly ends: ReturnType<typeof loadEmbeddingAndHead>;
    readonly data: Awaited<ReturnType<typeof openData>>;
    readonly log: TuneLog;
    readonly adapter: Adapter | null;
    readonly projections: HeadProjections | undefined;
  },
): LocalTraining {
  const { fingerprint } = model;
  const settings = settingsOf(flags);
  const training: LocalTraining = new LocalTraining({
    ...{ engine, base, ends, projections, settings, source: plan },
    start: state?.step,
    shouldStop: isInterrupted,
    onEvent: (event) => log.hear(event),
    onBest: flags["keep-best"]
      ? (step) => saveTo(`${flags.save}-best`, step, { flags, training, run, fingerprint })
      : undefined,
    saving: {
      ...savingOf(flags, state),
      read: async (step): Promise<RunState> => ({
        ...{ run, step, settings, fingerprint, pruning: null, devices: null },
        heads: await saveHeads(training.modules[0]!),
        data: { fingerprint: plan.fingerprint, position: step, best: plan.bestBefore(step), begun },
      }),
      write: write ?? undefined,
    },
  });
  try {
    if (state === null) {
      if (adapter !== null) loadStart(adapter, training, fingerprint);
      return training;
    }
    const range = { first: 0, count: base.shape.heads };
    requireSameRun(state, { settings, range, fingerprint, dataFingerprint: plan.fingerprint });
    plan.resume(state.data!.best);
    training.modules[0]!.restore(state.heads!.state);
    return training;
  } catch (error) {
    training[Symbol.dispose]();
    throw error;
  }
}

/** Puts what was learnt before into the heads of a new run. */
function loadStart(adapter: Adapter, training: LocalTraining, fingerprint: string): void {
  if (adapter.fingerprint !== "" && adapter.fingerprint !== fingerprint) {
    throw new UsageError(
      `Cannot begin with the adapter as it must be of this base model, ${
        fingerprint.slice(0, 12)
      }: it is of ${adapter.fingerprint.slice(0, 12)}`,
    );
  }
  loadIntoModules(adapter, training.modules[0]!);
}

/** Writes what was learnt, if a folder was asked for. */
async function saveTo(
  folder: string,
  steps: number,
  { flags, training, run, fingerprint }: {
    readonly flags: Flags;
    readonly training: LocalTraining;
    readonly run: string;
    readonly fingerprint: string;
  },
): Promise<void> {
  if (flags.save === "") return;
  if (steps === 0) return console.error(`Saved nothing to ${folder}, as there was no training step`);
  const adapter = await adapterOf(training.modules[0]!, fingerprint);
  const previous = await saveAdapter(folder, adapter, { run, steps });
  if (previous !== null) console.error(`The adapter of another run is kept: ${previous}`);
}

/** Writes the report. */
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
  console.log(`On ${adapter}${facts.padding === null ? "" : `; ${facts.padding.text}`}`);
}

/** When the state is saved. */
function savingOf(flags: Flags, state: RunState | null): SavingPort<RunState> {
  const steps = runSettings(flags).saveEvery;
  const saves = flags.state !== "" || flags.resume !== "";
  return {
    every: { steps, ms: saves ? flags["state-seconds"] * 1000 : 0 },
    saved: state?.step ?? null,
    // Steps give the event loop so few turns that it would be written much later.
    waits: true,
  };
}

/** Says how the run ended and what was saved; gives the exit code. */
async function tellEnding(
  flags: Flags,
  { step, losses, best }: TrainingSummary,
  { started, call }: { readonly started: Started; readonly call: Call },
): Promise<number> {
  const state = await savedState(started.folder, started.run);
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
      ...(flags["keep-best"] && best !== null && best.step > 0
        ? [
          `the one of the lowest validation loss, ${
            best.loss.toFixed(3)
          } after ${best.step} steps, in ${flags.save}-best`,
        ]
        : []),
      ...(state === null ? [] : [`the state of step ${state.step} in ${state.folder}`]),
    ],
    state,
    command: goOnCommand(call, "server_tuner.ts", state),
  }, { isQuiet: flags.events });
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
