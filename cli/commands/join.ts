/**
 * A user device: joins an edge server, trains its share of the head modules, and with `--data` also
 * holds the texts, labels and loss.
 *
 * @module
 */

import {
  adapterOf,
  type BaseWeights,
  chatTemplateOf,
  type DataSide,
  deviceIdIn,
  type HeadModules,
  loadAdapter,
  loadEmbeddingAndHead,
  lossesAtEnds,
  newDeviceId,
  openModel,
  requireSameRun,
  type RunCheckpoint,
  runUserDevice,
  sample,
  saveAdapter,
  type SavedData,
  type Tokenizer,
  TrainingError,
  TrainingPlan,
  type UserDeviceResult,
  warmUp,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, number, readFlags, text, toggle, UsageError } from "../flags/flags.ts";
import { codecsFor } from "../flags/codecs.ts";
import { CONNECTION_FLAGS, openLink } from "../flags/connection.ts";
import { endingOf } from "../process/exit_codes.ts";
import { GOOD_ORDER_MS, Interrupts, isInterrupted } from "../process/interrupts.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import {
  cutText,
  encodePrompts,
  endTokens,
  type Prompt,
  promptRoom,
  requirePrompts,
  textOf,
} from "../shared/prompts.ts";
import { bytes, ProgressBar } from "../output/progress.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "../output/report.ts";
import {
  endJson,
  goOnCommand,
  mayGoOn,
  neverBegan,
  type RunEnd,
  savedState,
  tellEnd,
} from "../output/run_end.ts";
import {
  checkpointFlags,
  LAUNCHER_FLAGS,
  openRunCheckpoints,
  PROGRESS_FLAGS,
  requireFlag,
  type RunCheckpoints,
  savingReport,
} from "../flags/run_flags.ts";
import {
  type AllCounts,
  DATA_FLAGS,
  loadTrainingSet,
  readExamples,
  type Teller,
} from "../shared/training_data.ts";
import { adviceFor } from "../flags/memory_advice.ts";
import { pluginLimit } from "../process/plugin_host.ts";
import { paddingSaved, PLAN_FLAGS, planOptions } from "../shared/training_plan.ts";
import { runWaits } from "../flags/waiting_flags.ts";
import { commandText, shownPath } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

/** Most tokens of a sample. */
const SAMPLE_TOKENS = 64;

/** Where the state of a run goes if nobody says where; devices with a name have a folder of that name. */
const STATE_FOLDER = "runs/user_device/state";

const FLAGS = {
  server: text(
    "URL",
    "ws://127.0.0.1:8787/join/ws",
    "where to join: ws(s)://.../join/ws, or http(s)://.../join/http through proxies",
  ),
  ...CONNECTION_FLAGS,
  name: text("NAME", "", "name shown to people; else that of the checkpoint, or a random one"),
  capacity: number("X", 1, "compute capacity compared with the other devices; 0 = data only, no heads", {
    min: 0,
  }),
  data: {
    ...COMMON_FLAGS.data,
    default: "",
    help:
      "makes this the data device: MR||text lines, or JSONL with prompt and completion, text, or messages",
  },
  ...DATA_FLAGS,
  ...Object.fromEntries(
    Object.entries(PLAN_FLAGS).map(([name, flag]) => [name, { ...flag, help: `data device: ${flag.help}` }]),
  ) as typeof PLAN_FLAGS,
  model: { ...MODEL_FLAG, help: `data device: ${MODEL_FLAG.help}` },
  tokenizer: { ...TOKENIZER_FLAG, help: `data device: ${TOKENIZER_FLAG.help}` },
  ...WEIGHTS_FLAG,
  batch: { ...COMMON_FLAGS.batch, help: "data device: sequences per step, or per part of a step" },
  length: { ...COMMON_FLAGS.length, help: "data device: tokens per sequence" },
  "share-loss": toggle("data device: tell the edge server the loss of each step"),
  seed: { ...TUNING_FLAGS.seed, help: "data device: seed of the order of the data" },
  samples: {
    ...COMMON_FLAGS.samples,
    default: 0,
    help: "data device: continue the first N prompts of --valid after the last step",
  },
  save: { ...COMMON_FLAGS.save, help: "folder for what this device's heads have learnt" },
  ...checkpointFlags(STATE_FOLDER),
  load: text(
    "DIR",
    "",
    "what they learnt before, for a run that only generates: see edgetuner serve --generate",
  ),
  codec: {
    ...COMMON_FLAGS.codec,
    help: "module of a codec that the run may use; the built-in ones are known anyway",
  },
  webgpu: COMMON_FLAGS.webgpu,
  ...LAUNCHER_FLAGS,
  ...PROGRESS_FLAGS,
  events: COMMON_FLAGS.events,
  report: COMMON_FLAGS.report,
};

/** Losses that the data device saw. */
interface Losses {
  readonly train: number[];
  readonly before: number[];
  readonly after: number[];
  /** Whole validations. */
  readonly validations: { readonly step: number; readonly loss: number }[];
}

function readOptions(call: Call): { readonly flags: Flags } {
  const flags = readFlags(
    {
      name: "user_device.ts",
      about: "Joins an edge server and trains its share of the LoRA head modules.",
      examples: [
        "edgetuner join --server ws://192.168.1.20:8787/join/ws --token T --capacity 5",
        "edgetuner join --token T --data cli/assets/restaurant/train.txt --save my_heads",
        "edgetuner join --token T --load my_heads",
      ],
    },
    FLAGS,
    call,
  );
  return { flags };
}

async function main({ flags }: { readonly flags: Flags }, call: Call): Promise<number> {
  const emit = (event: Record<string, unknown>) => {
    if (flags.events) console.log(JSON.stringify(event));
  };
  const say = (line: string) => {
    if (!flags.events) console.log(line);
  };
  requireFlag("user_device.ts", "eval-every", "valid", flags["eval-every"] === 0 || flags.valid !== "");
  requireFlag("user_device.ts", "keep-best", "valid", !flags["keep-best"] || flags.valid !== "");
  const link = await openLink("user_device.ts", flags, flags.server, "--server");
  await requireWritable("user_device.ts", { files: { report: flags.report }, folders: { save: flags.save } });
  const held = flags.data === "" ? undefined : baseWeightsOf(flags);
  using checkpoints = await openState(flags, held);
  const { resumed, folder, write } = checkpoints;
  // A device that goes on is the one of its state.
  const id = resumed !== null ? undefined : folder === null ? newDeviceId() : await deviceIdIn(folder);
  const before = resumed === null ? null : (await resumed.load(resumed.steps.at(-1)!)).devices?.[0]?.name;
  const name = flags.name || before || `device-${crypto.randomUUID().slice(0, 4)}`;
  using engine = await Engine.create({ gpu: await loadGpu(flags.webgpu) });
  const losses: Losses = { train: [], before: [], after: [], validations: [] };
  const adapter = flags.load === "" ? undefined : await loadAdapter(flags.load);
  if (adapter !== undefined && (flags.data !== "" || flags.save !== "" || flags.capacity === 0)) {
    throw new UsageError(
      "Cannot use --load as a device that only generates must have heads, and neither --data nor --save: it has",
    );
  }
  if (flags.samples > 0 && flags.valid === "") {
    throw new UsageError("--samples needs --valid too: it continues prompts of that file");
  }
  const data = flags.data === "" ? null : await openData(engine, flags, losses, emit);
  let run = "";
  const saveHeads = async (folder: string, modules: HeadModules, steps: number) => {
    const learnt = await adapterOf(modules, data?.fingerprint ?? "");
    const previous = await saveAdapter(folder, learnt, { run, steps });
    if (previous !== null) say(`What another run has learnt is kept: ${previous}`);
  };
  const codecs = await codecsFor(flags.codec, pluginLimit(runWaits(flags).timeoutMs));
  // Before it joins: kernels that compile in a step would make the others wait.
  await warmUp(
    engine,
    [...flags.capacity > 0 ? ["heads" as const] : [], ...data ? ["data" as const] : []],
    baseWeightsOf(flags),
  );
  const abort = new AbortController();
  const endNow = () => abort.abort(new DOMException("interrupted", "AbortError"));
  let isRunning = false;
  // From here on there may be something to save. The edge server may end the run without a fault, if it hears
  // Ctrl-C too; if it does not, this device does.
  using _interrupts = new Interrupts(() => isRunning ? setTimeout(endNow, GOOD_ORDER_MS) : endNow());
  const notice = (line: string) => flags.events ? emit({ type: "notice", text: line }) : console.error(line);
  const channel = await link.connect(notice, abort.signal);
  say(`${name} joined on ${engine.adapterName}; waiting for the other devices`);
  const log = new MemoryLog();
  let bar: ProgressBar | null = null;
  let stepped = 0;
  const started = performance.now();
  const result = await runUserDevice({
    engine,
    channel,
    name,
    id,
    capacity: flags.capacity,
    data: data?.side,
    task: adapter === undefined ? "train" : "generate",
    adapter,
    codecs,
    signal: abort.signal,
    ...runWaits(flags),
    resume: resumed ?? undefined,
    onResume: (checkpoint) => data?.resume(checkpoint),
    ...(write === null ? {} : {
      onCheckpoint: (checkpoint) => write({ ...checkpoint, data: data?.saved(checkpoint.step) ?? null }),
    }),
    onBest: async (step, modules) => {
      // Heads that have learnt nothing yet take nothing's place.
      if (flags.save !== "" && step > 0) await saveHeads(`${flags.save}-best`, modules, step);
    },
    onWelcome: (w) => {
      isRunning = true;
      run = w.run;
      data?.plan.begin(w.settings);
      bar = new ProgressBar(w.settings.steps, {
        isShown: !flags.events,
        everySeconds: flags["log-every"],
      });
      stepped = performance.now();
      const heads = w.range === null
        ? "no heads"
        : `heads ${w.range.first} to ${
          w.range.first + w.range.count - 1
        } of each of ${w.model.layers} layers`;
      say(`Run ${w.run}: this device has ${heads}${w.start > 0 ? `; it goes on from step ${w.start}` : ""}`);
      emit({ type: "welcome", name, range: w.range, start: w.start });
    },
    onPause: (paused) => {
      say(paused ? "The run is paused; waiting" : "The run goes on");
      emit({ type: "pause", paused });
    },
    onStep: (step) => {
      log.sample(step);
      const last = losses.validations.at(-1);
      const validation = last === undefined ? "" : `  validation ${last.loss.toFixed(3)}`;
      const loss = losses.train.length > 0 ? `loss ${losses.train.at(-1)!.toFixed(3)}${validation}  ` : "";
      const now = performance.now();
      bar?.draw(step + 1, `${loss}${((now - stepped) / 1000).toFixed(2)} s/step`);
      stepped = now;
    },
  });
  (bar as ProgressBar | null)?.end();
  const saved: string[] = [];
  const diverged = result.error instanceof TrainingError;
  // Heads that led to such a loss are of no use, finite or not: whoever reads the events must not take them.
  // Heads without a training step have learnt nothing that could take another adapter's place.
  if (result.modules !== null && flags.save !== "" && result.steps > 0 && !diverged) {
    await saveHeads(flags.save, result.modules, result.steps);
    saved.push(`${result.modules.parameterCount} parameters in ${flags.save}`);
  }
  const end = await endOf(flags, result, call, {
    saved,
    folder: checkpoints.folder ?? "",
    best: data?.plan.best ?? null,
    losses: lossesAtEnds(losses.validations.map(({ loss }) => loss), losses.train),
  });
  const memory = peakMemory();
  const summary = {
    name,
    range: result.welcome.range,
    start: result.welcome.start,
    steps: result.steps,
    parameters: result.modules?.parameterCount ?? 0,
    losses,
    best: data?.plan.best ?? null,
    padding: paddingSaved(data?.plan.padding ?? null),
    data: data?.counts ?? null,
    samples: data?.samples ?? [],
    traffic: result.ledger.entries(),
    saving: savingReport(result.saving, performance.now() - started),
    peakMemoryBytes: memory,
    memory: log.samples,
    reason: result.reason,
    end: endJson(end),
    error: result.error === null ? null : String((result.error as Error).message ?? result.error),
  };
  await writeReport(flags.report, { versions: versions(), adapter: engine.adapterName, ...summary });
  emit({ type: diverged ? "failed" : "done", ...summary });
  for (const { prompt, generated } of summary.samples) say(`${prompt}\n  ${generated}`);
  const padding = summary.padding === null ? "" : `; ${summary.padding.text}`;
  say(`${bytes(result.ledger.totalBytes)} on the wire${padding}`);
  result.modules?.[Symbol.dispose]();
  data?.dispose();
  return tellEnd(end, flags.events);
}

/** How the run ended for this device. */
async function endOf(
  flags: Flags,
  result: UserDeviceResult,
  call: Call,
  { saved, folder, losses, best = null }: Pick<RunEnd, "saved" | "losses" | "best"> & {
    readonly folder: string;
  },
): Promise<RunEnd> {
  const { error, reason, steps } = result;
  const ending = error === null && reason === ""
    ? "done"
    : error === null || isInterrupted()
    ? "interrupted"
    : endingOf(error);
  const state = await savedState(folder, result.welcome.run);
  return {
    ending,
    why: ending === "interrupted" ? reason || "interrupted" : (error as Error | null)?.message ?? "",
    ...(best === null ? {} : { best }),
    advice: adviceFor(error, flags),
    turns: "a smaller --rate, a longer --warmup, or --clip-norm 1 at the edge server",
    next: flags.save === "" ? "" : commandText("generate.ts", [
      ...[
        "--model",
        shownPath(flags.model),
        "--adapter",
        isWhole(result) ? flags.save : `${flags.save},OTHER_PARTS`,
      ],
    ], call.form),
    done: flags.load === "" ? `${steps} steps` : "generation",
    losses: losses ?? null,
    saved: [...saved, ...(state === null ? [] : [`the state of step ${state.step} in ${state.folder}`])],
    state,
    command: mayGoOn(error) ? goOnCommand(call, "user_device.ts", state) : "",
  };
}

/** True if the device has all heads of the run. */
function isWhole({ welcome: { range, model } }: UserDeviceResult): boolean {
  return range !== null && range.count === model.heads;
}

type Flags = FlagValues<typeof FLAGS>;

/** Opens the folder of the state; a device that only generates has none. */
async function openState(flags: Flags, baseWeights: BaseWeights | undefined): Promise<RunCheckpoints> {
  const isDefault = flags.checkpoint === STATE_FOLDER;
  const folder = isDefault && flags.name !== ""
    ? STATE_FOLDER.replace(/[^/]+$/, encodeURIComponent(flags.name))
    : flags.checkpoint;
  const checkpoint = isDefault && flags.load !== "" ? "" : folder;
  return await openRunCheckpoints({ checkpoint, resume: flags.resume }, {
    baseWeights,
    defaultFolder: isDefault ? folder : undefined,
    // Of several devices on this machine.
    fits: ({ data, devices }) =>
      (data !== null) === (flags.data !== "") && devices?.[0]?.capacity === flags.capacity,
  });
}

/** Loads model ends and texts, and says which batch comes when: validation, all steps, validation. */
async function openData(
  engine: Engine,
  flags: Flags,
  losses: Losses,
  emit: (event: Record<string, unknown>) => void,
) {
  const { model, tokenizer } = await openModel(flags.model, flags);
  const ends = loadEmbeddingAndHead(engine, model, { baseWeights: baseWeightsOf(flags) });
  const { length } = flags;
  if (length > ends.shape.positions) {
    throw new UsageError(
      `Cannot use --length ${length} as the model takes at most ${ends.shape.positions} tokens`,
    );
  }
  // Whoever reads the events gets them there.
  const tell = (text: string) => flags.events ? emit({ type: "notice", text }) : console.error(text);
  const load = (file: string) => loadTrainingSet(file, { ...flags, tokenizer }, tell);
  const set = await load(flags.data);
  const valid = flags.valid === "" ? null : await load(flags.valid);
  const counts: AllCounts = { train: set.counts, valid: valid?.counts ?? null };
  emit({ type: "data", ...counts });
  const plan = await TrainingPlan.create({ set, valid, ...planOptions(flags) });
  const { fingerprint } = model;
  const room = promptRoom(ends.shape.positions, SAMPLE_TOKENS);
  const prompts = flags.samples === 0 ? [] : await openPrompts(flags, tokenizer, room, tell);
  const stops = endTokens(tokenizer, await chatTemplateOf(flags.model, flags.tokenizer));
  const samples: { readonly prompt: string; readonly generated: string }[] = [];
  const side: DataSide = {
    ends,
    loss: { labelSmoothing: flags.smoothing },
    fingerprint,
    shareLoss: flags["share-loss"],
    next: (step) => plan.next(step),
    ...(flags["keep-best"] ? { isBest: () => plan.isBest() } : {}),
    onLoss(step, mode, loss) {
      if (mode === "train") losses.train.push(loss);
      else (step === 0 ? losses.before : losses.after).push(loss);
      emit({ type: "loss", step, mode, loss });
      const validation = plan.onLoss(step, mode, loss);
      if (validation === null) return;
      losses.validations.push({ step, loss: validation });
      emit({ type: "validation", step, loss: validation });
    },
    async generate(session) {
      // Models with very few positions have no room for more than half of them.
      const maxNewTokens = Math.min(SAMPLE_TOKENS, ends.shape.positions - room);
      for (const { tokens: given, text: prompt } of prompts) {
        const tokens = await sample(session, given, { maxNewTokens, endTokens: stops });
        const generated = textOf(tokenizer, tokens, stops);
        samples.push({ prompt, generated });
      }
    },
  };
  return {
    side,
    plan,
    counts,
    samples,
    fingerprint,
    /** Checks that a checkpoint is of the same data, and goes on from it. */
    resume(checkpoint: RunCheckpoint): void {
      requireSameRun(checkpoint, { dataFingerprint: plan.fingerprint });
      plan.resume(checkpoint.data!.best);
    },
    /** What a checkpoint after so many steps notes of the data. */
    saved: (step: number): SavedData => ({
      fingerprint: plan.fingerprint,
      position: step,
      best: plan.bestBefore(step),
    }),
    dispose: () => ends[Symbol.dispose](),
  };
}

/** The first prompts of the validation data. */
async function openPrompts(
  flags: Flags,
  tokenizer: Tokenizer,
  room: number,
  tell: Teller,
): Promise<readonly Prompt[]> {
  // What is left out was told when the data was loaded.
  const read = await readExamples(flags.valid, flags, () => {});
  requirePrompts(flags.valid, read.examples);
  const choice = { count: flags.samples, first: 0, distinct: false };
  const { prompts, counts } = encodePrompts(read, tokenizer, choice, room);
  const cut = cutText(flags.valid, counts, room);
  if (cut !== null) tell(cut);
  return prompts;
}

/** Runs the command. */
export const run: CommandRun = command(
  readOptions,
  (options, call) => main(options, call).catch((error) => neverBegan(call, "user_device.ts", error)),
);
