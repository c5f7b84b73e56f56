/**
 * A user device: joins an edge server, trains its share of the head modules, and with `--data` also
 * holds the texts, labels and loss.
 *
 * @module
 */

import {
  absenceLines,
  type Absences,
  type Adapter,
  adapterOf,
  deviceIdIn,
  type DeviceKey,
  deviceKeyIn,
  type HeadModules,
  lossesAtEnds,
  newDeviceId,
  newDeviceKey,
  openRunStates,
  plainText,
  runUserDevice,
  saveAdapter,
  showValue,
  type UserDeviceResult,
  warmUp,
} from "@edgetuner/core";
import type { Engine } from "@edgetuner/kernels";
import { inviteOf } from "@edgetuner/transport/control";
import { codecsFor } from "../flags/codecs.ts";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { CONNECTION_FLAGS, openLink, type ServerLink } from "../flags/connection.ts";
import { fitting, type FlagValues, number, text, toggle, UsageError } from "../flags/flags.ts";
import { adviceFor } from "../flags/memory_advice.ts";
import { MODEL_FLAG, TOKENIZER_FLAG } from "../flags/model_flags.ts";
import {
  claimRunStates,
  LAUNCHER_FLAGS,
  PROGRESS_FLAGS,
  type RunStates,
  savingReport,
  stateFlags,
} from "../flags/run_flags.ts";
import { TUNING_FLAGS } from "../flags/tuning_flags.ts";
import { RETURN_WAITS, runWaits } from "../flags/waiting_flags.ts";
import { openEngine } from "../flags/webgpu.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { JoinLog } from "../output/join_log.ts";
import { bytes } from "../output/progress.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import {
  endJson,
  goOnCommand,
  mayGoOn,
  neverBegan,
  type RunEnd,
  savedState,
  tellEnd,
} from "../output/run_end.ts";
import { command, type CommandRun } from "../process/command.ts";
import { openNearbyLink } from "../discovery/nearby_link.ts";
import { endingOf } from "../process/exit_codes.ts";
import { GOOD_ORDER_MS, Interrupts, isInterrupted } from "../process/interrupts.ts";
import type { Call } from "../process/invocation.ts";
import { commandText, exampleFile, shownPath } from "../process/places.ts";
import { pluginLimit } from "../process/plugin_host.ts";
import { requireWritable } from "../process/writable.ts";
import { DeviceData } from "../shared/device_data.ts";
import { enterByInvite } from "../shared/invited.ts";
import { START_FLAG } from "../shared/starting_adapter.ts";
import { loadAdapterParts } from "../shared/texts.ts";
import { type ChosenFlags, chosenText, readFitted } from "../shared/fitting.ts";
import { DATA_FLAGS, EPOCHS_FLAG } from "../shared/training_data.ts";
import { PLAN_FLAGS, requirePlan } from "../shared/training_plan.ts";

/** Where the state of a run goes if nobody says where; devices with a name have a folder of that name. */
const STATE_FOLDER = "runs/user_device/state";

const FLAGS = {
  server: text(
    "URL",
    "ws://127.0.0.1:8787/join/ws",
    "where to join: ws(s)://.../join/ws, http(s)://.../join/http through proxies, nats+ws(s)://.../RUN through a broker, or the address of an invite; without it this machine, else the edge server of this network that announces itself and has the token",
  ),
  ...CONNECTION_FLAGS,
  ...RETURN_WAITS,
  name: text("NAME", "", "name shown to people; else that of the state, or a random one"),
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
  epochs: {
    ...EPOCHS_FLAG.epochs,
    help: "data device: most passes over its data; 0 = as many as the edge server's --steps take",
  },
  model: { ...MODEL_FLAG, help: `data device: ${MODEL_FLAG.help}` },
  tokenizer: { ...TOKENIZER_FLAG, help: `data device: ${TOKENIZER_FLAG.help}` },
  ...WEIGHTS_FLAG,
  batch: fitting({ ...COMMON_FLAGS.batch, help: "data device: sequences per step, or per part of a step" }),
  length: fitting({ ...COMMON_FLAGS.length, help: "data device: tokens per sequence" }),
  "share-loss": toggle("data device: tell the edge server the loss of each step"),
  "no-share-validation": toggle(
    "one of several data devices: do not tell the edge server the mean loss of --valid, so that the figure of all is without it",
  ),
  seed: { ...TUNING_FLAGS.seed, help: "data device: seed of the order of the data" },
  samples: {
    ...COMMON_FLAGS.samples,
    default: 0,
    help: "data device: continue the first N prompts of --valid after the last step",
  },
  save: { ...COMMON_FLAGS.save, help: "folder for what this device's heads have learnt" },
  ...stateFlags(STATE_FOLDER),
  adapter: {
    ...START_FLAG.adapter,
    help: "a new run begins with what was learnt before, the whole adapter or this device's part of it",
  },
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
  "gpu-mb": COMMON_FLAGS["gpu-mb"],
  ...LAUNCHER_FLAGS,
  ...PROGRESS_FLAGS,
  events: COMMON_FLAGS.events,
  report: COMMON_FLAGS.report,
};

const PROGRAM = {
  name: "user_device.ts",
  about: "Joins an edge server and trains its share of the LoRA head modules.",
  examples: [
    "edgetuner join --server ws://192.168.1.20:8787/join/ws --token T --capacity 5",
    `edgetuner join --token T --data ${exampleFile("restaurant/train.txt")} --save runs/my_heads`,
    "edgetuner join --token T --load runs/my_heads",
  ],
};

type Flags = FlagValues<typeof FLAGS>;

/** The flags, and what they open before there is a GPU. */
interface Options {
  readonly flags: Flags;
  /** Those that were chosen to fit the model. */
  readonly chosen: ChosenFlags;
  /** The way to the edge server; `null` where it is that of an invite, which the host is asked for first. */
  readonly link: ServerLink | null;
  /** What the heads have learnt before: for a run that only generates, or to begin with. */
  readonly adapter: Adapter | undefined;
}

async function readOptions(call: Call): Promise<Options> {
  const { flags, given, chosen } = await readFitted(PROGRAM, FLAGS, call, {
    isNeeded: ({ data }) => data !== "",
  });
  requirePlan("user_device.ts", flags);
  requireName(flags.name);
  // With an invite there is no token yet.
  const link = inviteOf(flags.server) !== null
    ? null
    : given.server === undefined
    ? await openNearbyLink("user_device.ts", flags, flags.server)
    : await openLink("user_device.ts", flags, flags.server, "--server");
  await requireWritable("user_device.ts", { files: { report: flags.report }, folders: { save: flags.save } });
  if (flags.load !== "" && flags.adapter !== "") {
    throw new UsageError(
      "Cannot use --load and --adapter together: a run generates, or begins with an adapter",
    );
  }
  const adapter = flags.load === ""
    ? await loadAdapterParts(flags.adapter) ?? undefined
    : await loadAdapterParts(flags.load) ?? undefined;
  if (flags.load !== "" && (flags.data !== "" || flags.save !== "" || flags.capacity === 0)) {
    throw new UsageError(
      "Cannot use --load as a device that only generates must have heads, and neither --data nor --save: it has",
    );
  }
  if (flags.samples > 0 && flags.valid === "") {
    throw new UsageError("--samples needs --valid too: it continues prompts of that file");
  }
  return { flags, chosen, link, adapter };
}

/** Most characters of a name. */
const MAX_NAME = 64;

/** The protocol's rule for names, before anything is done. */
function requireName(name: string): void {
  if (name === plainText(name, MAX_NAME)) return;
  throw new UsageError(
    `Cannot run user_device.ts as --name must have at most ${MAX_NAME} characters, none of them a control character: current value is ${
      showValue(name)
    }`,
  );
}

async function main(options: Options, call: Call): Promise<number> {
  const { flags, chosen } = options;
  const log = new JoinLog(flags);
  const text = chosenText(chosen);
  if (text !== null) log.notice(text);
  using states = await openState(flags);
  const who = await identityOf(flags, states);
  using engine = await openEngine(flags);
  const { resumed } = states;
  const state = resumed === null ? null : await resumed.load(resumed.steps.at(-1)!);
  using data = flags.data === "" ? null : await DeviceData.open(engine, flags, log, state);
  const party = { engine, who, states, data, log };
  const result = await takePart(options, party);
  log.end();
  const saved = await saveLearnt(flags, result, party);
  const end = await endOf(flags, { result, saved, ...party }, call);
  await report(flags, { result, end, ...party });
  for (const { prompt, generated } of data?.samples ?? []) log.say(`${prompt}\n  ${generated}`);
  const padding = data === null || data.padding === null ? "" : `; ${data.padding.text}`;
  log.say(`${bytes(result.ledger.totalBytes)} on the wire${padding}`);
  for (const line of absenceLines(result.absences)) log.say(line);
  result.modules?.[Symbol.dispose]();
  return tellEnd(end, { isQuiet: flags.events });
}

/** What this device takes part with. */
interface Party {
  readonly engine: Engine;
  readonly who: {
    readonly name: string;
    readonly id: string | undefined;
    readonly key: DeviceKey | undefined;
  };
  readonly states: RunStates;
  readonly data: DeviceData | null;
  readonly log: JoinLog;
}

/** Opens the folder of the state; a device that only generates has none. */
async function openState(flags: Flags): Promise<RunStates> {
  const isDefault = flags.state === STATE_FOLDER;
  const folder = isDefault && flags.name !== ""
    ? STATE_FOLDER.replace(/[^/]+$/, encodeURIComponent(flags.name))
    : flags.state;
  const state = isDefault && flags.load !== "" ? "" : folder;
  return await claimRunStates({ state, resume: flags.resume }, {
    baseWeights: flags.data === "" ? undefined : baseWeightsOf(flags),
    defaultFolder: isDefault ? folder : undefined,
    // Of several devices on this machine.
    fits: ({ data, devices }) =>
      (data !== null) === (flags.data !== "") && devices?.[0]?.capacity === flags.capacity,
  });
}

/** Who this device is: one that goes on is the one of its state. */
async function identityOf(flags: Flags, { resumed, folder }: RunStates): Promise<Party["who"]> {
  const id = resumed !== null ? undefined : folder === null ? newDeviceId() : await deviceIdIn(folder);
  const before = resumed === null ? null : (await resumed.load(resumed.steps.at(-1)!)).devices?.[0]?.name;
  const isInvited = inviteOf(flags.server) !== null;
  const key = folder !== null ? await deviceKeyIn(folder) : isInvited ? await newDeviceKey() : undefined;
  return { name: flags.name || before || `device-${crypto.randomUUID().slice(0, 4)}`, id, key };
}

/** The way of a device that is invited, once the host has let it in. */
async function linkByInvite(flags: Flags, party: Party, signal: AbortSignal): Promise<ServerLink> {
  const { who: { name, id, key }, states: { folder, resumed }, log } = party;
  const saved = resumed === null ? null : await resumed.load(resumed.steps.at(-1)!);
  const limitMs = flags["join-timeout"] * 1000;
  const { server, token } = await enterByInvite({
    address: flags.server,
    fingerprint: flags.fingerprint,
    // The key is there with every invite.
    device: { name, id: id ?? saved?.devices?.[0]?.id ?? newDeviceId(), key: key!.publicKey },
    folder,
    say: (line) => log.say(line),
    signal: AbortSignal.any([signal, AbortSignal.timeout(limitMs)]),
  });
  return await openLink("user_device.ts", { ...flags, token }, server, "--server");
}

/** Joins, and takes part until the run ends. */
async function takePart(options: Options, party: Party): Promise<UserDeviceResult> {
  const { flags, adapter } = options;
  const { engine, who: { name, id, key }, states: { resumed, write, folder }, data, log } = party;
  const codecs = await codecsFor(flags.codec, pluginLimit(runWaits(flags).timeoutMs));
  // Before it joins: kernels that compile in a step would make the others wait.
  await warmUp(engine, { heads: flags.capacity > 0, ...(data ? { ends: data.side.ends } : {}) });
  const abort = new AbortController();
  const endNow = () => abort.abort(new DOMException("interrupted", "AbortError"));
  let run = "";
  // From the welcome on there may be something to save. The edge server may end the run without a fault, if it hears
  // Ctrl-C too; if it does not, this device does.
  using _interrupts = new Interrupts(() => run === "" ? endNow() : setTimeout(endNow, GOOD_ORDER_MS));
  const link = options.link ?? await linkByInvite(flags, party, abort.signal);
  const channel = await link.connect((line) => log.notice(line), abort.signal);
  log.say(`${name} joined on ${engine.adapterName}; waiting for the other devices`);
  return await runUserDevice({
    ...{ engine, channel, name, id, key, capacity: flags.capacity, data: data?.side },
    ...{ task: flags.load === "" ? "train" : "generate", adapter, codecs, signal: abort.signal },
    ...runWaits(flags),
    ...(flags["server-lost"] === 0 ? {} : {
      reconnect: (signal) => link.connect(() => {}, signal),
      serverLostMs: flags["server-lost"] * 1000,
      onLost: (error) => log.lost(error),
    }),
    savedStates: async () => folder === null ? null : await openRunStates(folder).catch(() => null),
    resume: resumed ?? undefined,
    onResume: (state) => data?.resume(state),
    ...(write === null ? {} : {
      onState: (state) => write({ ...state, data: data?.saved(state.step) ?? null }),
    }),
    onBest: async (steps, modules, absences) => {
      // Heads that have learnt nothing yet take nothing's place.
      if (flags.save !== "" && steps > 0) {
        await saveHeads(`${flags.save}-best`, modules, { ...party, run, steps, absences });
      }
    },
    onWelcome: (welcome) => {
      ({ run } = welcome);
      // Where owners give parts of a step, each part is a batch of its own.
      const { settings, turns } = welcome;
      data?.plan.begin(turns === "parts" ? { ...settings, accumulate: 1 } : settings);
      if (turns !== null && flags["eval-every"] > 0) {
        log.notice("--eval-every of the edge server holds: several people's data is validated together");
      }
      log.welcome(name, welcome);
    },
    // In generation there is often nothing to do for a while.
    onPause: (paused) => flags.load === "" && log.pause(paused),
    onStep: (step, figures) => log.step(step, figures),
  });
}

/** Writes what heads have learnt. */
async function saveHeads(
  folder: string,
  modules: HeadModules,
  { data, log, run, steps, absences }: Pick<Party, "data" | "log"> & {
    readonly run: string;
    readonly steps: number;
    readonly absences: Absences;
  },
): Promise<void> {
  const learnt = await adapterOf(modules, data?.fingerprint ?? "");
  const previous = await saveAdapter(folder, { ...learnt, ...absences }, { run, steps });
  if (previous !== null) log.notice(`What another run has learnt is kept: ${previous}`);
}

/** Saves what was learnt, if it is worth it; says what and where. */
async function saveLearnt(flags: Flags, result: UserDeviceResult, party: Party): Promise<string[]> {
  const { modules, steps, absences, welcome: { run } } = result;
  // Heads that led to a loss that is not finite are of no use, finite or not: whoever reads the events must not take
  // them. Those of a run that another device spoilt are good. Heads without a training step have learnt nothing that could take another adapter's place.
  if (modules === null || flags.save === "" || steps === 0 || !mayGoOn(result.error)) return [];
  await saveHeads(flags.save, modules, { ...party, run, steps, absences });
  return [`${modules.parameterCount} parameters in ${flags.save}`];
}

/** How the run ended for this device. */
async function endOf(
  flags: Flags,
  { result, saved, states, data, log }: Party & {
    readonly result: UserDeviceResult;
    readonly saved: readonly string[];
  },
  call: Call,
): Promise<RunEnd> {
  const { error, reason, steps, welcome, wasStopped } = result;
  const ending = error === null && reason === ""
    ? "done"
    : error === null || wasStopped || isInterrupted()
    ? "interrupted"
    : endingOf(error);
  const state = await savedState(states.folder ?? "", welcome.run);
  const adapter = isWhole(result) ? flags.save : `${flags.save},OTHER_PARTS`;
  return {
    ending,
    why: ending === "interrupted" ? reason || "interrupted" : (error as Error | null)?.message ?? "",
    advice: await adviceFor(error, {
      flags,
      party: partyOf(flags),
      heads: welcome.range?.count ?? 0,
    }),
    turns: "a smaller --rate, a longer --warmup, or --clip-norm 1 at the edge server",
    next: flags.save === ""
      ? ""
      : commandText("generate.ts", ["--model", shownPath(flags.model), "--adapter", adapter], call.form),
    done: flags.load === "" ? `${steps} steps` : "generation",
    best: data?.best ?? null,
    losses: lossesAtEnds(log.losses.validations.map(({ loss }) => loss), log.losses.train),
    saved: [...saved, ...(state === null ? [] : [`the state of step ${state.step} in ${state.folder}`])],
    state,
    command: mayGoOn(error) ? goOnCommand(call, "user_device.ts", state) : "",
  };
}

function partyOf(flags: Flags): "dataDevice" | "headDevice" {
  return flags.data === "" ? "headDevice" : "dataDevice";
}

/** True if the device has all heads of the run. */
function isWhole({ welcome: { range, model } }: UserDeviceResult): boolean {
  return range !== null && range.count === model.heads;
}

/** Writes the report and the last event. */
async function report(
  flags: Flags,
  { result, end, engine, who, data, log }: Party & {
    readonly result: UserDeviceResult;
    readonly end: RunEnd;
  },
): Promise<void> {
  const { welcome, steps, modules, ledger, saving, reason, error } = result;
  const summary = {
    name: who.name,
    range: welcome.range,
    start: welcome.start,
    steps,
    parameters: modules?.parameterCount ?? 0,
    losses: log.losses,
    best: data?.best ?? null,
    padding: data?.padding ?? null,
    data: data?.counts ?? null,
    samples: data?.samples ?? [],
    absences: result.absences,
    traffic: ledger.entries(),
    saving: savingReport(saving, log.elapsedMs),
    peakMemoryBytes: peakMemory(),
    memory: log.memory.samples,
    reason,
    end: endJson(end),
    error: error === null ? null : String((error as Error).message ?? error),
  };
  await writeReport(flags.report, { versions: versions(), adapter: engine.adapterName, ...summary });
  log.emit({ type: mayGoOn(result.error) ? "done" : "failed", ...summary });
}

/** Runs the command. */
export const run: CommandRun = command(
  readOptions,
  (options, call) => main(options, call).catch((error) => neverBegan(call, "user_device.ts", error)),
  ({ flags }) => partyOf(flags),
);
