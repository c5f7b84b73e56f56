/**
 * An edge server: holds the base model, waits for devices, runs the steps, and can be watched and
 * steered over a REST API.
 *
 * @module
 */

import {
  absenceLines,
  type DataSharing,
  environmentVariable,
  loadModelConfig,
  lossesAtEnds,
  type RunSettings,
} from "@edgetuner/core";
import { MIN_TOKEN_LENGTH } from "@edgetuner/transport/server";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { fitting, type FlagValues, integer, text, toggle, UsageError } from "../flags/flags.ts";
import { codecChoice } from "../flags/codecs.ts";
import { GOOD_ORDER_MS, Interrupts, sharedInterrupts } from "../process/interrupts.ts";
import { endingOf } from "../process/exit_codes.ts";
import { MODEL_FLAG } from "../flags/model_flags.ts";
import { bytes, prunerTime } from "../output/progress.ts";
import { PRUNER_FLAGS, prunerChoice, prunerFlags, prunerOptions } from "../flags/pruners.ts";
import { peakMemory, versions, writeReport } from "../output/report.ts";
import { endJson, goOnCommand, mayGoOn, type RunEnd, savedState, tellEnd } from "../output/run_end.ts";
import {
  LAUNCHER_FLAGS,
  parameterText,
  PROGRESS_FLAGS,
  requireFlag,
  RUN_FLAGS,
  runSettings,
  savingReport,
  stateFlags,
} from "../flags/run_flags.ts";
import { ServeLog } from "../output/serve_log.ts";
import { TOTAL_RANK_FLAG, TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import {
  LOSS_FLAGS,
  lossOptions,
  PAUSE_WAIT,
  requireWaits,
  RUN_WAITS,
  runWaits,
} from "../flags/waiting_flags.ts";
import { SHARING_FLAGS, sharingOf } from "../flags/sharing_flags.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { commandText, exampleFile, shownPath } from "../process/places.ts";
import { InviteDesk } from "../shared/invites.ts";
import {
  type EdgeListeners,
  LISTEN_FLAGS,
  type ListenAddress,
  openListeners,
  requireListenFlags,
  type Tokens,
} from "../shared/edge_listeners.ts";
import { certificateOf, KEPT } from "../shared/tls.ts";
import { openRunStore, STORE_FLAG } from "../shared/run_store.ts";
import { START_FLAG, withAdapter } from "../shared/starting_adapter.ts";
import { loadAdapterParts } from "../shared/texts.ts";
import {
  type ChosenFlags,
  chosenText,
  chosenWith,
  rankText,
  readFitted,
  withoutRank,
} from "../shared/fitting.ts";
import { adviceFor } from "../flags/memory_advice.ts";
import { requireWritable } from "../process/writable.ts";
import { WorkerRun } from "../process/worker_run.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

/** Longest time for all devices to take the last frames of a run, in milliseconds: they do so at once. */
const DRAIN_MS = 5000;
/** The same where the run was stopped or failed: a device that is gone takes nothing. */
const DRAIN_FAILED_MS = 500;
/** Where the state of a run goes if nobody says where. */
const STATE_FOLDER = "runs/edge_server/state";

const FLAGS = {
  ...TUNING_FLAGS,
  ...TOTAL_RANK_FLAG,
  ...RUN_FLAGS,
  ...stateFlags(STATE_FOLDER),
  model: MODEL_FLAG,
  ...WEIGHTS_FLAG,
  adapter: {
    ...START_FLAG.adapter,
    help:
      "a new run begins with this adapter, which devices join with too: its settings of LoRA are the run's",
  },
  generate: toggle(
    "no training: generate with what the devices' heads have learnt, until stopped; see --connect of generate, chat and api",
  ),
  once: toggle("--generate: end once the first program that generates is done"),
  "cache-mb": integer("N", 1024, "generation: most megabytes of keys and values to keep", { min: 1 }),
  devices: COMMON_FLAGS.devices,
  ...LISTEN_FLAGS,
  "join-token": text(
    "TOKEN",
    "",
    "token that devices must show; EDGETUNER_JOIN_TOKEN, or else a new one that is printed",
  ),
  "admin-token": text(
    "TOKEN",
    "",
    "token of the REST API; EDGETUNER_ADMIN_TOKEN, or else a new one that is printed",
  ),
  ...PRUNER_FLAGS,
  tau: fitting(PRUNER_FLAGS.tau),
  eta: fitting(PRUNER_FLAGS.eta),
  collect: text(
    "FILE",
    "",
    "keep every head and append samples to train a predictor from; see edgetuner train-pruner",
  ),
  codec: COMMON_FLAGS.codec,
  "micro-batches": COMMON_FLAGS["micro-batches"],
  "no-overlap": COMMON_FLAGS["no-overlap"],
  webgpu: COMMON_FLAGS.webgpu,
  "gpu-mb": COMMON_FLAGS["gpu-mb"],
  ...RUN_WAITS,
  ...PAUSE_WAIT,
  ...LOSS_FLAGS,
  ...SHARING_FLAGS,
  ...LAUNCHER_FLAGS,
  ...PROGRESS_FLAGS,
  events: COMMON_FLAGS.events,
  metrics: COMMON_FLAGS.metrics,
  ...STORE_FLAG,
  report: COMMON_FLAGS.report,
};

const PROGRAM = {
  name: "edge_server.ts",
  about: "Holds the base model, waits for devices and fine-tunes with them.",
  examples: [
    "edgetuner serve --devices 1 --join-token secret-join",
    `edgetuner join --server ws://127.0.0.1:8787/join/ws --token secret-join --data ${
      exampleFile("restaurant/train.txt")
    }`,
    "edgetuner serve --resume   # the same command, after it was interrupted or killed; devices too",
    "edgetuner serve --generate --devices 1 --join-token secret-join",
  ],
};

type Flags = FlagValues<typeof FLAGS>;

/** The flags, and what they mean together. */
interface Options {
  readonly flags: Flags;
  /** Those that were chosen to fit the model. */
  readonly chosen: ChosenFlags;
  readonly pruner: { readonly name: string; readonly options: Readonly<Record<string, number>> };
  readonly codec: Awaited<ReturnType<typeof codecChoice>>;
  readonly settings: RunSettings;
  readonly sharing: DataSharing | undefined;
  readonly tokens: Tokens;
}

async function readOptions(call: Call): Promise<Options> {
  const fitted = await readFitted(PROGRAM, FLAGS, call, { isNeeded: ({ generate }) => !generate });
  const adapter = await loadAdapterParts(fitted.flags.adapter);
  const { given } = fitted;
  const flags = withAdapter("edge_server.ts", fitted, adapter);
  const chosen = adapter === null ? fitted.chosen : withoutRank(fitted.chosen);
  requireWaits("edge_server.ts", flags);
  requireListenFlags(flags);
  await certificateOf(flags);
  requireFlag("edge_server.ts", { flag: "once", needs: "generate", isMet: !flags.once || flags.generate });
  await requireWritable("edge_server.ts", { files: { report: flags.report } });
  const codec = await codecChoice(flags.codec);
  // Generation keeps every head, whatever the pruner.
  const pruning = flags.generate ? {} : prunerFlags("edge_server.ts", flags, given);
  return {
    flags,
    chosen: chosenWith(pruning, chosen),
    codec,
    pruner: { name: flags.generate ? "none" : flags.pruner, options: prunerOptions(pruning) },
    settings: {
      ...tuningSettings(flags),
      ...runSettings(flags),
      codec: codec.name,
      microBatches: flags["micro-batches"],
      overlap: !flags["no-overlap"],
      task: flags.generate ? "generate" : "train",
    },
    sharing: sharingOf("edge_server.ts", flags),
    tokens: tokensOf(flags),
  };
}

function tokensOf(flags: Flags): Tokens {
  const own = tokenOf("join", flags);
  const admin = tokenOf("admin", flags);
  if (own !== "" && own === admin) {
    throw new UsageError(
      "Cannot run edge_server.ts as --join-token and --admin-token must differ: whoever joins could steer the run",
    );
  }
  return {
    isNew: own === "",
    join: own === "" ? crypto.randomUUID() : own,
    admin: admin || crypto.randomUUID(),
  };
}

/** A token that was given; empty without one. */
function tokenOf(who: "join" | "admin", flags: Flags): string {
  const variable = `EDGETUNER_${who.toUpperCase()}_TOKEN`;
  const given = flags[`${who}-token`];
  const token = given || environmentVariable(variable) || "";
  if (token !== "" && (token.length < MIN_TOKEN_LENGTH || !/^[\x21-\x7e]+$/.test(token))) {
    throw new UsageError(
      `Cannot run edge_server.ts as ${
        given === "" ? variable : `--${who}-token`
      } must have at least ${MIN_TOKEN_LENGTH} visible ASCII characters and no spaces: current length is ${token.length}`,
    );
  }
  return token;
}

async function main(options: Options, call: Call): Promise<number> {
  const { flags } = options;
  // Before the run starts, so that a file or tokens that are refused leave nothing running.
  using store = await openRunStore(flags, (sentence) => console.error(sentence));
  const listeners = openListeners(flags, options.tokens, store);
  const run = await startRun(options);
  // What generates has no steps to keep.
  if (!flags.generate) store?.record(run, run.pruner);
  const address = await listeners.open(run);
  using log = new ServeLog(run, flags);
  const rank = rankText(await loadModelConfig(flags.model), options.settings.lora);
  announce(log, { options, run, reached: address, rank });
  using _desk = await openDesk(flags, { run, log, address, listeners });
  using interrupts = new Interrupts(() => {
    run.stop("interrupted");
    // Where a step takes longer than that the devices keep what they have learnt before it.
    setTimeout(() => run.abort("interrupted"), GOOD_ORDER_MS);
  });
  const failure = await run.done.then(() => null, (error: Error) => error);
  log.end();
  const ended = { run, log, failure, memoryBytes: peakMemory() };
  await report(options, ended);
  const end = await endOf(options, { ...ended, isInterrupted: interrupts.asked, port: address.port }, call);
  emitDone(ended, end);
  await listeners.close(run, end.ending === "done" ? DRAIN_MS : DRAIN_FAILED_MS);
  if (run.pruner !== "none" && log.trained.count > 0) log.say(prunerTime(log.trained));
  for (const line of log.owners.lines) log.say(line);
  for (const line of absenceLines({ missed: log.absences.missed ?? [] })) log.say(line);
  return tellEnd(end, { isQuiet: flags.events });
}

/** Shows an invite and answers those who ask to join, with --invite. */
async function openDesk(
  flags: Flags,
  { run, log, address: { isTls, addresses }, listeners: { invitations } }: {
    readonly run: WorkerRun;
    readonly log: ServeLog;
    readonly address: ListenAddress;
    readonly listeners: EdgeListeners;
  },
): Promise<InviteDesk | null> {
  if (!flags.invite) return null;
  const desk = new InviteDesk({
    ...{ run, invitations, address: `http${isTls ? "s" : ""}://${addresses[0]}` },
    say: (line) => log.say(line),
    emit: (event) => log.emit(event),
  });
  await desk.invite();
  // It ends with the process.
  void desk.follow();
  return desk;
}

/** Loads the model in a worker. */
async function startRun({ flags, pruner, codec, settings, sharing }: Options): Promise<WorkerRun> {
  return await WorkerRun.start({
    model: flags.model,
    baseWeights: baseWeightsOf(flags),
    settings,
    devices: flags.devices,
    pruner: prunerChoice(pruner.name, pruner.options, flags.predictor),
    collect: flags.collect,
    codecs: codec.modules,
    // What generates has no state to go on from.
    state: flags.generate ? "" : flags.state,
    defaultState: STATE_FOLDER,
    resume: flags.resume,
    saveEveryMs: flags["state-seconds"] * 1000,
    webgpu: flags.webgpu,
    "gpu-mb": flags["gpu-mb"],
    maxCacheBytes: flags["cache-mb"] * 1e6,
    stays: flags.generate && !flags.once,
    ...runWaits(flags),
    ...lossOptions(flags),
    sharing,
    interrupts: sharedInterrupts(),
  });
}

/** Says what runs, where to join and where to watch. */
function announce(
  log: ServeLog,
  { options: { flags, chosen, tokens }, run, reached, rank }: {
    readonly options: Options;
    readonly run: WorkerRun;
    readonly reached: ListenAddress;
    /** The rank in words. */
    readonly rank: string;
  },
): void {
  const yardstick = run.deployable ? "" : " (a yardstick: not deployable)";
  const { adapter, pruner, deployable, model, parameters, settings } = run;
  const fades = flags.generate || pruner === "none"
    ? ""
    : `, what rests fades by ${settings.prunedFade} a step`;
  log.say(`Run ${run.run} on ${adapter}, pruner ${pruner}${yardstick}${fades}`);
  log.say(flags.generate ? parameterText(run.parameters) : `${parameterText(run.parameters)}; ${rank}`);
  const text = chosenText(chosen);
  if (text !== null && !flags.events) console.error(text);
  const { addresses, note, nats, fingerprint, isTls, signIn } = reached;
  const s = isTls ? "s" : "";
  log.say("Devices join at");
  for (const address of addresses) log.say(`  ws${s}://${address}/join/ws`);
  log.say(`Through proxies that break WebSocket\n  http${s}://${addresses[0]}/join/http`);
  if (nats !== "") log.say(`Through the broker\n  ${nats}`);
  if (note !== "") log.say(note);
  if (flags.announce !== "") log.say("Announced in this network: devices join without --server");
  if (fingerprint !== "") log.say(`Fingerprint of the certificate, for join --fingerprint\n  ${fingerprint}`);
  log.say(`Token of devices\n  ${tokens.join}`);
  log.say(
    `Watch it\n  curl -N ${
      fingerprint === "" ? "" : `--cacert ${KEPT} `
    }-H "Authorization: Bearer ${tokens.admin}" http${s}://${addresses[0]}/api/runs/${run.run}/events`,
  );
  if (signIn !== "") {
    log.say(`Dashboard; the link signs one browser in\n  http${s}://${addresses[0]}${signIn}`);
  }
  log.emit({
    type: "listening",
    ...{
      address: addresses[0],
      addresses,
      nats,
      fingerprint,
      run: run.run,
      adapter,
      pruner,
      deployable,
      model,
    },
    ...{ baseWeights: baseWeightsOf(flags), settings, parameters },
  });
}

/** A run that is over. */
interface Ended {
  readonly run: WorkerRun;
  readonly log: ServeLog;
  /** What ended it too early. */
  readonly failure: Error | null;
  /** Peak memory of this process. */
  readonly memoryBytes: number;
}

/** What saving took, for reports. */
function savingOf({ run, log }: Ended) {
  return run.saving === null ? null : savingReport(run.saving, log.elapsedMs);
}

/** Writes the report. */
async function report({ flags, pruner }: Options, ended: Ended): Promise<void> {
  const { run, log, failure, memoryBytes } = ended;
  await writeReport(flags.report, {
    versions: versions(),
    adapter: run.adapter,
    run: run.run,
    model: run.model,
    baseWeights: baseWeightsOf(flags),
    pruner: { name: run.pruner, options: pruner.options, deployable: run.deployable },
    settings: run.settings,
    parameters: run.parameters,
    resumed: run.resumedFrom !== null,
    saving: savingOf(ended),
    devices: run.devices,
    steps: log.records,
    validations: log.validations.means,
    owners: log.owners.all,
    absences: log.absences,
    decoded: log.decoded,
    traffic: run.traffic(),
    seconds: log.elapsedMs / 1000,
    peakMemoryBytes: memoryBytes,
    memory: log.memory.samples,
    error: failure?.message ?? null,
  });
}

/** How it went. */
async function endOf(
  { flags, tokens }: Options,
  { run, log, failure, isInterrupted, port }: Ended & {
    readonly isInterrupted: boolean;
    readonly port: number;
  },
  call: Call,
): Promise<RunEnd> {
  const { trained, validations, decoded, stopReason } = log;
  const total = run.traffic().reduce((sum, e) => sum + e.frameBytes, 0);
  const done = [
    ...(flags.generate ? [] : [`${trained.last === null ? 0 : trained.last.step + 1} steps`]),
    ...(decoded.passes > 0 || flags.generate
      ? [`${decoded.passes} passes of generation over ${decoded.tokens} tokens`]
      : []),
  ];
  const state = await savedState(run.stateFolder ?? "", run.run);
  return {
    ending: failure === null && stopReason === ""
      ? "done"
      : failure === null || isInterrupted
      ? "interrupted"
      : endingOf(failure),
    why: failure?.message ?? stopReason,
    advice: await adviceFor(failure, { flags, party: "edgeServer" }),
    done: `${done.join(" and ")}, ${bytes(total)} on the wire${
      log.away === "" ? "" : `; heads ${log.away} were away at the end`
    }`,
    losses: lossesAtEnds(validations.means.map(({ loss }) => loss), [...trained.losses.values]),
    best: validations.best,
    next: flags.generate ? "" : commandText("edge_server.ts", [
      ...["--generate", "--devices", `${flags.devices}`, "--model", shownPath(flags.model)],
    ], call.form),
    saved: state === null ? [] : [`the state of step ${state.step} in ${state.folder}`],
    state,
    command: !mayGoOn(failure) ? "" : goOnCommand(call, "edge_server.ts", state, {
      // Devices go on with the address and the token that they have.
      ...(flags.port === 0 ? { port: `${port}` } : {}),
      ...(tokens.isNew ? { "join-token": tokens.join } : {}),
    }),
  };
}

/** The last event. */
function emitDone(ended: Ended, end: RunEnd): void {
  const { run, log, failure, memoryBytes } = ended;
  log.emit({
    type: "done",
    saving: savingOf(ended),
    traffic: run.traffic(),
    peakMemoryBytes: memoryBytes,
    memory: log.memory.samples,
    end: endJson(end),
    error: failure?.message ?? null,
  });
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main, "edgeServer");
