/**
 * An edge server: holds the base model, waits for devices, runs the steps, and can be watched and
 * steered over a REST API.
 *
 * @module
 */

import {
  adamwAt,
  type BestLoss,
  environmentVariable,
  type ListenError,
  lossesAtEnds,
  type RunSettings,
  type StepRecord,
  TokenMean,
} from "@edgetuner/core";
import { createControlApp, eventJson, serve, type Serving, stepJson } from "@edgetuner/transport/server";
import { httpListener, requireToken, webSocketListener } from "@edgetuner/transport";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import {
  type FlagValues,
  type GivenFlags,
  integer,
  readGiven,
  text,
  toggle,
  UsageError,
  withDefaults,
} from "../flags/flags.ts";
import { codecChoice } from "../flags/codecs.ts";
import { GOOD_ORDER_MS, Interrupts, sharedInterrupts } from "../process/interrupts.ts";
import { endingOf } from "../process/exit_codes.ts";
import { MODEL_FLAG } from "../flags/model_flags.ts";
import { MetricsLog, type MetricsRow } from "../output/metrics.ts";
import { bytes, ProgressBar, prunerTime } from "../output/progress.ts";
import { PRUNER_FLAGS, prunerChoice, prunerFlags, prunerOptions } from "../flags/pruners.ts";
import { MemoryLog, peakMemory, versions, writeReport } from "../output/report.ts";
import { endJson, goOnCommand, mayGoOn, type RunEnd, savedState, tellEnd } from "../output/run_end.ts";
import {
  checkpointFlags,
  LAUNCHER_FLAGS,
  parameterText,
  PROGRESS_FLAGS,
  RUN_FLAGS,
  runSettings,
  savingReport,
} from "../flags/run_flags.ts";
import { Rows, StepFigures } from "../output/rows.ts";
import { TUNING_FLAGS, tuningSettings } from "../flags/tuning_flags.ts";
import {
  PAUSE_WAIT,
  pollWaits,
  requireWaits,
  RUN_WAITS,
  runWaits,
  socketWaits,
} from "../flags/waiting_flags.ts";
import { baseWeightsOf, WEIGHTS_FLAG } from "../flags/weights_flag.ts";
import { commandText, shownPath } from "../process/places.ts";
import { adviceFor } from "../flags/memory_advice.ts";
import { requireWritable } from "../process/writable.ts";
import { WorkerRun } from "../process/worker_run.ts";
import { command, type CommandRun } from "../process/command.ts";
import type { Call } from "../process/invocation.ts";

/** Bytes a device may have under way: a few frames of a large model. */
const QUEUE_BYTES = 2 ** 28;

/** Longest time for all devices to take the last frames of a run, in milliseconds: they do so at once. */
const DRAIN_MS = 5000;
/** The same where the run was stopped or failed: a device that is gone takes nothing. */
const DRAIN_FAILED_MS = 500;
/** Longest time for those who watch to take the last event, in milliseconds. */
const SHUTDOWN_MS = 100;
/** Where the state of a run goes if nobody says where. */
const STATE_FOLDER = "runs/edge_server/state";

const FLAGS = {
  ...TUNING_FLAGS,
  ...RUN_FLAGS,
  ...checkpointFlags(STATE_FOLDER),
  model: MODEL_FLAG,
  ...WEIGHTS_FLAG,
  generate: toggle(
    "no training: generate with what the devices' heads have learnt; see edgetuner generate --connect",
  ),
  "cache-mb": integer("N", 1024, "generation: most megabytes of keys and values to keep", { min: 1 }),
  devices: COMMON_FLAGS.devices,
  host: text("HOST", "127.0.0.1", "address to listen on"),
  port: COMMON_FLAGS.port,
  "max-connections": integer("N", 0, "most connections at once; 0 = as the limit of open files allows", {
    min: 0,
  }),
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
  collect: text(
    "FILE",
    "",
    "keep every head and append samples to train a predictor from; see edgetuner train-pruner",
  ),
  codec: COMMON_FLAGS.codec,
  "micro-batches": COMMON_FLAGS["micro-batches"],
  "no-overlap": COMMON_FLAGS["no-overlap"],
  webgpu: COMMON_FLAGS.webgpu,
  ...RUN_WAITS,
  ...PAUSE_WAIT,
  ...LAUNCHER_FLAGS,
  ...PROGRESS_FLAGS,
  events: COMMON_FLAGS.events,
  metrics: COMMON_FLAGS.metrics,
  report: COMMON_FLAGS.report,
};

interface Options {
  readonly flags: FlagValues<typeof FLAGS>;
  readonly given: GivenFlags<typeof FLAGS>;
}

function readOptions(call: Call): Options {
  const given = readGiven(
    {
      name: "edge_server.ts",
      about: "Holds the base model, waits for devices and fine-tunes with them.",
      examples: [
        "edgetuner serve --devices 1 --join-token secret-join",
        "edgetuner join --server ws://127.0.0.1:8787/join/ws --token secret-join --data cli/assets/restaurant/train.txt",
        "edgetuner serve --resume   # the same command, after it was interrupted or killed; devices too",
        "edgetuner serve --generate --devices 1 --join-token secret-join",
      ],
    },
    FLAGS,
    call,
  );
  const flags = withDefaults(FLAGS, given);
  requireWaits("edge_server.ts", flags);
  return { flags, given };
}

async function main({ flags, given }: Options, call: Call): Promise<number> {
  const ownToken = flags["join-token"] || environmentVariable("EDGETUNER_JOIN_TOKEN") || "";
  const isNewToken = ownToken === "";
  const joinToken = isNewToken ? crypto.randomUUID() : ownToken;
  const adminToken = flags["admin-token"] || environmentVariable("EDGETUNER_ADMIN_TOKEN") ||
    crypto.randomUUID();
  // Generation keeps every head, whatever the pruner.
  const prunerName = flags.generate ? "none" : flags.pruner;
  const options = flags.generate ? {} : prunerOptions(prunerFlags("edge_server.ts", flags, given));
  await requireWritable("edge_server.ts", { files: { report: flags.report } });
  const codec = await codecChoice(flags.codec);
  const settings = {
    ...tuningSettings(flags),
    ...runSettings(flags),
    codec: codec.name,
    microBatches: flags["micro-batches"],
    overlap: !flags["no-overlap"],
    task: flags.generate ? "generate" as const : "train" as const,
  };
  const say = (line: string) => {
    if (!flags.events) console.log(line);
  };
  const emit = (event: Record<string, unknown>) => {
    if (flags.events) console.log(JSON.stringify(event));
  };

  const sockets = webSocketListener({ queueBytes: QUEUE_BYTES, ...socketWaits(flags) });
  const polls = httpListener({ queueBytes: QUEUE_BYTES, ...pollWaits(flags) });
  // Before the worker starts, so that tokens that are refused leave nothing running.
  const runs = new Map<string, WorkerRun>();
  const app = createControlApp({
    runs,
    joinToken,
    adminToken,
    webSocket: sockets,
    http: polls,
    version: versions().edgetuner!,
  });
  const run = await WorkerRun.start({
    model: flags.model,
    baseWeights: baseWeightsOf(flags),
    settings,
    devices: flags.devices,
    pruner: prunerChoice(prunerName, options, flags.predictor),
    collect: flags.collect,
    codec: codec.module,
    // What generates has no state to go on from.
    checkpoint: flags.generate ? "" : flags.checkpoint,
    defaultCheckpoint: STATE_FOLDER,
    resume: flags.resume,
    saveEveryMs: flags["checkpoint-seconds"] * 1000,
    webgpu: flags.webgpu,
    maxCacheBytes: flags["cache-mb"] * 1e6,
    ...runWaits(flags),
    interrupts: sharedInterrupts(),
  });
  runs.set(run.run, run);
  let server: Serving;
  try {
    server = await serve(app, {
      hostname: flags.host,
      port: flags.port,
      authorize: requireToken(joinToken, adminToken),
      ...(flags["max-connections"] > 0 && { maxConnections: flags["max-connections"] }),
    });
  } catch (error) {
    run.stop("not listening");
    const { message, code } = error as ListenError;
    throw new UsageError(code === "EADDRINUSE" ? `${message}; try --port 0` : message);
  }
  const address = `${flags.host}:${server.port}`;
  const accept = async (listener: typeof sockets | typeof polls) => {
    for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
      run.join(channel);
    }
  };
  const accepting = Promise.all([accept(sockets), accept(polls)]);

  const yardstick = run.deployable ? "" : " (a yardstick: not deployable)";
  say(`Run ${run.run} on ${run.adapter}, pruner ${run.pruner}${yardstick}`);
  say(parameterText(run.parameters));
  say(`Devices join at ws://${address}/join/ws or http://${address}/join/http  (token ${joinToken})`);
  say(
    `Watch it: curl -N -H "Authorization: Bearer ${adminToken}" http://${address}/api/runs/${run.run}/events`,
  );
  emit({
    type: "listening",
    address,
    run: run.run,
    adapter: run.adapter,
    pruner: run.pruner,
    deployable: run.deployable,
    model: run.model,
    baseWeights: baseWeightsOf(flags),
    settings,
    parameters: run.parameters,
  });

  using metrics = flags.metrics === "" ? null : new MetricsLog(flags.metrics, run.resumedFrom !== null);
  using records = Rows.of(flags.report, "steps");
  const trained = new StepFigures();
  const validations = new Validations();
  const decoded = {
    passes: 0,
    tokens: 0,
    bytes: 0,
    seconds: 0,
    waitSeconds: 0,
    readbackSeconds: 0,
    cacheBytes: 0,
  };
  const log = new MemoryLog();
  const bar = new ProgressBar(flags.steps, {
    isShown: !flags.events && !flags.generate,
    everySeconds: flags["log-every"],
  });
  const started = performance.now();
  let stopReason = "";
  run.subscribe((event) => {
    emit(eventJson(event));
    if (event.type === "status" && event.status === "ended") stopReason = event.reason;
    if (event.type === "joined") {
      const { name, id, capacity } = event.device;
      const hasNamesake = run.devices.filter((d) => d.name === name).length > 1;
      say(`${name}${hasNamesake ? ` (id ${id})` : ""} joined (capacity ${capacity})`);
    } else if (event.type === "refused") say(`Refused ${event.peer}: ${event.reason}`);
    else if (event.type === "decoding") {
      const { rows, tokens, bytes, times, cacheBytes } = event.record;
      decoded.passes++;
      decoded.tokens += rows * tokens;
      decoded.bytes += bytes;
      decoded.seconds += times.total / 1000;
      decoded.waitSeconds += times.wait / 1000;
      decoded.readbackSeconds += times.readback / 1000;
      decoded.cacheBytes = Math.max(decoded.cacheBytes, cacheBytes);
    } else if (event.type === "step") {
      records.add(stepJson(event.record));
      metrics?.write(metricsOf(event.record, settings));
      validations.add(event.record);
      if (event.record.mode === "train") {
        trained.add(event.record);
        log.sample(event.record.step);
        bar.draw(event.record.step + 1, `${stepText(event.record)}${validations.text}`);
      }
    }
  });
  using interrupts = new Interrupts(() => {
    run.stop("interrupted");
    // Where a step takes longer than that the devices keep what they have learnt before it.
    setTimeout(() => run.abort("interrupted"), GOOD_ORDER_MS);
  });
  let failure: Error | null = null;
  try {
    await run.done;
  } catch (error) {
    failure = error as Error;
  }
  bar.end();
  const memory = peakMemory();
  await writeReport(flags.report, {
    versions: versions(),
    adapter: run.adapter,
    run: run.run,
    model: run.model,
    baseWeights: baseWeightsOf(flags),
    pruner: { name: run.pruner, options, deployable: run.deployable },
    settings,
    parameters: run.parameters,
    resumed: run.resumedFrom !== null,
    saving: run.saving === null ? null : savingReport(run.saving, performance.now() - started),
    devices: run.devices,
    steps: records,
    validations: validations.means,
    decoded,
    traffic: run.traffic(),
    seconds: (performance.now() - started) / 1000,
    peakMemoryBytes: memory,
    memory: log.samples,
    error: failure?.message ?? null,
  });
  const total = run.traffic().reduce((sum, e) => sum + e.frameBytes, 0);
  const passes = decoded.passes > 0 || flags.generate
    ? [`${decoded.passes} passes of generation over ${decoded.tokens} tokens`]
    : [];
  const steps = trained.last === null ? 0 : trained.last.step + 1;
  const state = await savedState(run.stateFolder ?? "", run.run);
  const end: RunEnd = {
    ending: failure === null && stopReason === ""
      ? "done"
      : failure === null || interrupts.asked
      ? "interrupted"
      : endingOf(failure),
    why: failure?.message ?? stopReason,
    advice: adviceFor(failure, flags),
    done: `${[...(flags.generate ? [] : [`${steps} steps`]), ...passes].join(" and ")}, ${
      bytes(total)
    } on the wire`,
    losses: lossesAtEnds(validations.means.map(({ loss }) => loss), [...trained.losses.values]),
    best: validations.best,
    next: flags.generate ? "" : commandText("edge_server.ts", [
      ...["--generate", "--devices", `${flags.devices}`, "--model", shownPath(flags.model)],
    ], call.form),
    saved: state === null ? [] : [`the state of step ${state.step} in ${state.folder}`],
    state,
    command: !mayGoOn(failure) ? "" : goOnCommand(call, "edge_server.ts", state, {
      // Devices go on with the address and the token that they have.
      ...(flags.port === 0 ? { port: `${server.port}` } : {}),
      ...(isNewToken ? { "join-token": joinToken } : {}),
    }),
  };
  emit({
    type: "done",
    saving: run.saving === null ? null : savingReport(run.saving, performance.now() - started),
    traffic: run.traffic(),
    peakMemoryBytes: memory,
    memory: log.samples,
    end: endJson(end),
    error: failure?.message ?? null,
  });
  // The devices take their last frames before the sockets go. Where the run failed some of them may be gone.
  await within(end.ending === "done" ? DRAIN_MS : DRAIN_FAILED_MS, run.drained());
  await Promise.all([sockets[Symbol.asyncDispose](), polls[Symbol.asyncDispose]()]);
  await accepting;
  await server.shutdown(SHUTDOWN_MS);
  if (run.pruner !== "none" && trained.count > 0) say(prunerTime(trained));
  return tellEnd(end, flags.events);
}

/** Waits, but not for long. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

/** Losses of validations, where the data device shares them: as it tells them, means by tokens. */
class Validations {
  /** The validations so far. */
  readonly means: { readonly step: number; loss: number }[] = [];
  #mean = new TokenMean();

  /** Takes in a step. */
  add({ step, mode, loss, counted = 0 }: StepRecord): void {
    if (mode !== "evaluate" || loss === null) return;
    if (this.means.at(-1)?.step !== step) {
      this.#mean = new TokenMean();
      this.means.push({ step, loss });
    }
    this.#mean.add(loss, counted);
    this.means.at(-1)!.loss = this.#mean.value;
  }

  /** The one of the lowest loss; `null` without any. */
  get best(): BestLoss | null {
    return this.means.reduce<BestLoss | null>((a, b) => a === null || b.loss < a.loss ? b : a, null);
  }

  /** The last one, for the progress line. */
  get text(): string {
    const last = this.means.at(-1);
    return last === undefined ? "" : `  validation ${last.loss.toFixed(3)}`;
  }
}

/** A row of the metrics. */
function metricsOf(record: StepRecord, { optimizer, steps }: RunSettings): MetricsRow {
  const { step, mode, loss, times, bytes, kept, tokens, gradientNorm } = record;
  return {
    step,
    mode,
    loss,
    rate: adamwAt(optimizer, step, steps).rate,
    seconds: times.total / 1000,
    wait_seconds: times.wait / 1000,
    prune_seconds: times.prune / 1000,
    bytes,
    tokens,
    kept_heads: kept.reduce((a, b) => a + b, 0),
    gradient_norm: gradientNorm ?? null,
  };
}

function stepText(record: StepRecord): string {
  const kept = record.kept.reduce((a, b) => a + b, 0);
  const loss = record.loss === null ? "" : `loss ${record.loss.toFixed(3)}  `;
  return `${loss}${(record.times.total / 1000).toFixed(2)} s/step  ${
    bytes(record.bytes)
  }/step  kept ${kept}/${record.mask.length}`;
}

/** Runs the command. */
export const run: CommandRun = command(readOptions, main);
