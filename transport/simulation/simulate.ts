/**
 * Whole fine-tuning runs on the twin of a network: an edge server and many devices in one process
 * train for real, while links and, in virtual time, computers are emulated. The same seeds and the
 * same compute model give the same losses, bytes and times on every run.
 *
 * @module
 */

import {
  allocateShares,
  type BaseLayers,
  type DataSide,
  EdgeServer,
  type EdgeServerOptions,
  type HeadModules,
  type HeadRange,
  type LedgerEntry,
  LocalData,
  LocalHeads,
  LocalTraining,
  type LossSettings,
  type ModelEnds,
  type RunServer,
  type RunServerOptions,
  type RunSettings,
  runStep,
  runTensorParallelDevice,
  runUserDevice,
  type Share,
  type StepRecord,
  TensorParallelServer,
  type TensorParallelServerOptions,
  type TokenBatch,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "@edgetuner/core";
import {
  ATTENTION_BACKWARD,
  type ComputeModel,
  headsBackwardWork,
  headsForwardWork,
  layerFlops,
  type Segment,
  segmentMs,
  type StepShape,
  TYPICAL_COMPUTE,
  wholeStepWork,
} from "./compute.ts";
import { LINK_PROFILES, type LinkProfile, readLinkProfile } from "./link_profile.ts";
import { type Pruner, TrainingError } from "@edgetuner/core/contracts";
import { virtualClock } from "./clock.ts";
import { type FrameRule, type TwinDevice, TwinNetwork } from "./network.ts";

/** The model of a simulation, on the GPU; stays the caller's. */
export interface SimulatedModel {
  /** Engine of the base model. */
  readonly engine: EdgeServerOptions["engine"];
  /** The base model's layers, on `engine`. */
  readonly layers: BaseLayers;
  /** Embedding and LM head, on `deviceEngine`. */
  readonly ends: ModelEnds;
  /** Engine of the devices; one of their own shows what memory the edge server takes. @default {engine} */
  readonly deviceEngine?: EdgeServerOptions["engine"];
}

/** A device of a simulation. */
export interface SimulatedDevice {
  /** gamma, which decides its number of heads; 0 for a data device without heads. @default {1} */
  readonly capacity?: number;
  /** How many times as fast as the compute model's device it is. @default {1} */
  readonly speed?: number;
  /** Its link. @default {the simulation's} */
  readonly link?: LinkProfile;
  /** True for the data device. @default {true for the first device, if none says so} */
  readonly data?: boolean;
  /** Bytes that it can give to its share of the base model; of interest for tensor parallelism. @default {no limit} */
  readonly memory?: number;
}

/** Options of {@linkcode simulateServerTuner}, and what {@linkcode simulate} has in common with it. */
export interface SimulationOptions {
  /** The model. */
  readonly model: SimulatedModel;
  /** Settings of the run: LoRA, optimizer, steps, seed. */
  readonly settings: RunSettings;
  /** The batch of a training step. */
  readonly batches: (step: number) => TokenBatch;
  /** Settings of the loss in training. @default {{ labelSmoothing: 0.1 }} */
  readonly loss?: LossSettings;
  /**
   * Batches on which the loss is taken before and after the run, at no virtual time and outside of
   * the ledger. Devices must share the edge server's engine.
   *
   * @default {[]}
   */
  readonly evaluation?: readonly TokenBatch[];
  /** How fast the parties compute. @default {TYPICAL_COMPUTE} */
  readonly compute?: ComputeModel;
  /** Called after each step. */
  onStep?(step: SimulatedStep): void;
  /** Called at the end with the trained head modules in the order of their heads, before they are freed. */
  onTrained?(modules: readonly HeadModules[]): void | Promise<void>;
  /** Ends the run early. */
  readonly signal?: AbortSignal;
}

/** Options that simulations with devices have in common. */
export interface NetworkSimulationOptions extends SimulationOptions {
  /** The devices, or their number if they are all alike. */
  readonly devices: number | readonly SimulatedDevice[];
  /** The link of each device, unless it has its own. @default {LINK_PROFILES["wifi-5"]} */
  readonly link?: LinkProfile;
  /** Seed of jitter, losses and failures. @default {1} */
  readonly linkSeed?: number;
  /** True to let links and kernels take the time of the wall. @default {false} */
  readonly realTime?: boolean;
  /** Work that comes with kinds of frames that are not of the step protocol. @default {{}} */
  readonly rules?: Readonly<Record<string, FrameRule>>;
  /** Longest wait for a device, in milliseconds of the wall. @default {120000} */
  readonly timeoutMs?: number;
}

/** Options of {@linkcode simulate}. */
export interface SplitSimulationOptions extends NetworkSimulationOptions {
  /** Decides which heads are pruned. */
  // deno-lint-ignore no-explicit-any -- a pruner of any state
  readonly pruner: Pruner<any>;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array;
}

/** Options of {@linkcode simulateTensorParallel}. */
export interface TensorParallelSimulationOptions extends NetworkSimulationOptions {
  /** The base model's configuration and weights, of which the devices get their shares. */
  readonly checkpoint: TensorParallelServerOptions["model"];
  /** The server's own capacity, in the unit of the devices' capacities. @default {1} */
  readonly capacity?: number;
}

/** A training step of a simulation. In virtual time `times.readback` and `times.codec` are 0. */
export interface SimulatedStep extends StepRecord {
  /** Milliseconds that the edge server computed; 0 in real time. */
  readonly edgeComputeMs: number;
}

/** A device after a simulation. */
export interface SimulatedDeviceResult {
  /** Its name. */
  readonly name: string;
  /** Its heads in every layer; `null` without heads. */
  readonly range: HeadRange | null;
  /** Milliseconds that it computed; 0 in real time. */
  readonly computeMs: number;
  /** Training steps done. */
  readonly steps: number;
  /** What ended its part early; `null` if nothing did. */
  readonly error: unknown;
}

/** What came of a simulation. */
export interface SimulationResult {
  /** Training steps, in order. */
  readonly steps: readonly SimulatedStep[];
  /** Mean time of a step in milliseconds, without the first one, which waits for its embedding. */
  readonly msPerStep: number;
  /** Mean bytes of a step, whole frames in both directions. */
  readonly bytesPerStep: number;
  /** Time of the whole run in milliseconds, joining included. */
  readonly totalMs: number;
  /** What was sent and received, all devices together, as the edge server counts it. */
  readonly ledger: readonly LedgerEntry[];
  /** Mean loss of the evaluation batches before and after; `null` without any. */
  readonly evaluation: { readonly before: number; readonly after: number } | null;
  /** GPU memory that the edge server's engine has taken in bytes; with the devices' if they share it. */
  readonly edgeMemoryBytes: number;
  /** The devices, in the order of the options. */
  readonly devices: readonly SimulatedDeviceResult[];
  /** What ended the run early, such as a device whose link was cut; `null` if nothing did. */
  readonly error: unknown;
}

/**
 * Fine-tunes with the split step on emulated links and returns what it took. Whatever ends the run early is
 * in the result with everything up to then; check `error`, a `TrainingError` where a loss was not finite.
 *
 * @throws {RangeError} If there are more devices than heads per layer, or an option is out of range.
 * @throws {TypeError} If there is not exactly one data device, evaluation is asked for across engines, or a link's
 * profile is not one or has a failure of a device that there is not.
 * @throws {PluginError} If the pruner is not one.
 */
export async function simulate(options: SplitSimulationOptions): Promise<SimulationResult> {
  const { engine, layers: base } = options.model;
  const { pruner, baseNorm } = options;
  return await runOnTwin(options, {
    rules: {},
    open: (common) => new EdgeServer({ ...common, engine, base, pruner, baseNorm }),
    run: (common) => runUserDevice(common),
    own: () => [],
  });
}

/**
 * Fine-tunes with the base model itself divided among edge server and devices (TPTensor), on emulated links. A
 * device with too little memory for its share ends the run: `error` says how much it would need.
 *
 * @throws {RangeError} If there are as many devices as heads per layer, or an option is out of range.
 * @throws {TypeError} If there is not exactly one data device, evaluation is asked for across engines, or a link's
 * profile is not one or has a failure of a device that there is not.
 */
export async function simulateTensorParallel(
  options: TensorParallelSimulationOptions,
): Promise<SimulationResult> {
  const { settings, model: { engine }, checkpoint, capacity = 1 } = options;
  const devices = devicesOf(options.devices);
  const size = sizeOf(options.model, settings);
  const { batch, length } = options.batches(0);
  const ranked = devices.map((d, device) => ({ device, capacity: d.capacity, name: nameOf(device) }))
    .filter((d) => d.capacity > 0)
    .sort((a, b) => b.capacity - a.capacity || (a.name < b.name ? -1 : 1));
  const shares = allocateShares(size.model, [capacity, ...ranked.map((d) => d.capacity)]);
  const shareOf = (device: number | null) =>
    shares[device === null ? 0 : 1 + ranked.findIndex((d) => d.device === device)];
  return await runOnTwin(options, {
    rules: tensorParallelRules(shareOf),
    open: (common) =>
      new TensorParallelServer({
        ...common,
        engine,
        model: checkpoint,
        capacity,
        largestStep: { batch, length },
      }),
    run: (common, device) =>
      runTensorParallelDevice({ ...common, memory: devices[device]!.memory ?? Number.MAX_SAFE_INTEGER }),
    own: (server) => server.modules === null ? [] : [server.modules],
  });
}

/** Compute of the ranks: a block's part after it was sent out, or before it is answered. */
function tensorParallelRules(
  shareOf: (device: number | null) => Share | undefined,
): Record<string, FrameRule> {
  const block = (backward: boolean): FrameRule => (frame, { device, direction, size }) => {
    const share = shareOf(device);
    const tensor = frame.tensors[0];
    if (share === undefined || tensor === undefined) return {};
    const tokens = tensor.shape[0]!;
    const { hidden, heads, inner = 4 * hidden } = size.model;
    const { norm, qkv, attention, projection, feedForward } = layerFlops(size, tokens);
    const ofHeads = share.heads.count / heads;
    const kept = share.heads.count;
    const own = backward
      ? headsBackwardWork(size, tokens, kept, true).flops
      : headsForwardWork(size, tokens, kept).flops;
    const flops = frame.layer % 2 === 1
      ? norm + feedForward * share.columns.count / inner
      : norm + own + ofHeads * (qkv + (backward ? ATTENTION_BACKWARD : 1) * attention + projection);
    const work: Segment[] = [{ name: backward ? "restBackward" : "rest", flops }];
    // The edge server sends a block's input and computes its own part meanwhile.
    if (device === null) return direction === "sent" ? { after: work } : {};
    return direction === "received" ? { before: work } : {};
  };
  return {
    activation: block(false),
    activationGradient: block(true),
    // The layers' work was done block by block.
    hidden: (_, { device }) => device === null ? {} : null,
  };
}

/** What a kind of run does in its own way. */
interface RunKind<S extends RunServer> {
  readonly rules: Readonly<Record<string, FrameRule>>;
  /** Makes the server. */
  open(
    common: Required<
      Pick<
        RunServerOptions,
        "fingerprint" | "settings" | "devices" | "run" | "timeoutMs" | "joinTimeoutMs" | "now"
      >
    >,
  ): S;
  /** Lets a device take part. */
  run(common: UserDeviceOptions, device: number): Promise<UserDeviceResult>;
  /** Head modules that the server holds itself at the end. */
  own(server: S): readonly HeadModules[];
}

/** Puts a run together on the twin of a network, and takes it to its end. */
async function runOnTwin<S extends RunServer>(
  options: NetworkSimulationOptions,
  kind: RunKind<S>,
): Promise<SimulationResult> {
  const { model, settings, timeoutMs = 120_000, realTime = false, link, signal } = options;
  const { engine, ends, deviceEngine = engine } = model;
  const { compute = TYPICAL_COMPUTE, loss = { labelSmoothing: 0.1 }, linkSeed = 1, rules = {} } = options;
  const devices = devicesOf(options.devices);
  requireLinks(link === undefined ? devices : [{ link }, ...devices], devices.length);
  checkEvaluation(options);
  using clock = realTime ? null : virtualClock({
    busy: () => engine.stats.pending + deviceEngine.stats.pending > 0,
  });
  // No time passes while the simulation is put together.
  const hold = clock?.hold();
  await using network = new TwinNetwork({
    size: sizeOf(model, settings),
    compute,
    seed: linkSeed,
    rules: { ...kind.rules, ...rules },
    overlap: settings.overlap ?? true,
    ...(clock === null ? {} : { clock }),
  });
  const server = kind.open({
    fingerprint: FINGERPRINT,
    settings,
    devices: devices.filter((d) => d.capacity > 0).length,
    // Of equal length in every run: names of runs are part of all frames.
    run: "twin",
    timeoutMs,
    joinTimeoutMs: timeoutMs,
    now: () => realTime ? performance.now() : network.edgeNow(),
  });
  const before = await evaluate(options, []);
  const steps: SimulatedStep[] = [];
  let computed = 0;
  server.subscribe((event) => {
    if (event.type !== "step") return;
    const edgeComputeMs = network.edgeComputeMs() - computed;
    computed += edgeComputeMs;
    const step = realTime ? { ...event.record, edgeComputeMs } : virtualStep(event.record, edgeComputeMs);
    steps.push(step);
    options.onStep?.(step);
  });
  let counted = 0;
  const data: DataSide = {
    ends,
    loss,
    fingerprint: FINGERPRINT,
    shareLoss: true,
    next(step) {
      if (step >= settings.steps) return null;
      const batch = options.batches(step);
      // As if they lay evenly over the micro-batches.
      counted = batch.mask.reduce((sum, m) => sum + (m === 0 ? 0 : 1), 0) / batch.mask.length;
      return { batch, mode: "train" };
    },
  };
  const started = network.clock.now();
  const running = server.start(signal).then(() => null, (error: unknown) => error);
  const parties: TwinDevice[] = [];
  const results: Promise<UserDeviceResult>[] = [];
  let left: unknown = null;
  for (const [i, device] of devices.entries()) {
    const party = await network.connect({
      link: device.link ?? link ?? LINK_PROFILES["wifi-5"],
      speed: device.speed,
      counted: (tokens) => Math.round(counted * tokens),
    });
    parties.push(party);
    void server.join(party.edge);
    const result = kind.run({
      engine: deviceEngine,
      channel: party.device,
      name: nameOf(i),
      capacity: device.capacity,
      data: device.data ? data : undefined,
      timeoutMs,
      signal,
    }, i);
    result.catch((cause) => {
      // Nobody will come in its place, so there is nothing to wait for.
      if (server.status !== "waiting") return;
      left ??= cause;
      server.stop("a device left before the start");
    });
    results.push(result);
  }
  hold?.[Symbol.dispose]();
  const settled = Promise.allSettled(results);
  let error = await running ?? left;
  const ended = await settled;
  const totalMs = network.clock.now() - started;
  const trained = [
    ...kind.own(server),
    ...ended.flatMap((r) => r.status === "fulfilled" && r.value.modules ? [r.value.modules] : []),
  ].sort((a, b) => a.options.range.first - b.options.range.first);
  try {
    const after = error !== null ? NaN : await evaluate(options, trained).catch((cause) => {
      if (!(cause instanceof TrainingError)) throw cause;
      error = cause;
      return NaN;
    });
    await options.onTrained?.(trained);
    return {
      ...summary(steps),
      totalMs,
      ledger: server.traffic(),
      evaluation: before === null || after === null ? null : { before, after },
      edgeMemoryBytes: engine.stats.allocatedBytes,
      devices: ended.map((result, i) => ({
        name: nameOf(i),
        computeMs: parties[i]!.computeMs(),
        ...(result.status === "fulfilled"
          ? { range: result.value.welcome.range, steps: result.value.steps, error: result.value.error }
          : { range: null, steps: 0, error: result.reason }),
      })),
      error,
    };
  } finally {
    for (const modules of trained) modules[Symbol.dispose]();
  }
}

/**
 * Fine-tunes with everything on the edge server and no network (ServerTuner), in virtual time: the floor
 * that the others are compared with. A loss that is not finite ends the run early, with a `TrainingError` in
 * `error`.
 *
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If the data side is on another engine.
 */
export async function simulateServerTuner(options: SimulationOptions): Promise<SimulationResult> {
  const { model, settings, batches, compute = TYPICAL_COMPUTE, signal } = options;
  const { engine, layers, ends } = model;
  if ((model.deviceEngine ?? engine) !== engine) {
    throw new TypeError("Cannot train on one machine as there must be one engine: the devices have another");
  }
  const size = sizeOf(model, settings);
  const { layers: L, heads: H } = size.model;
  const before = await evaluate(options, []);
  const steps: SimulatedStep[] = [];
  let batch: TokenBatch | null = null;
  using training = new LocalTraining({
    ...{ engine, base: layers, ends, settings, loss: options.loss },
    source(step) {
      signal?.throwIfAborted();
      return step < settings.steps ? { batch: batch = batches(step), mode: "train" } : null;
    },
    onEvent(event) {
      if (event.type !== "step") return;
      const { length, mask: places } = batch!;
      const counted = places.reduce((sum, m) => sum + (m === 0 ? 0 : 1), 0);
      const total = wholeStepWork({ ...size, length }, places.length, counted)
        .reduce((sum, segment) => sum + segmentMs(compute.edgeServer, segment), 0);
      const record: SimulatedStep = {
        step: event.step,
        mode: "train",
        loss: event.loss,
        times: { total, prune: 0, readback: 0, codec: 0, wait: 0 },
        bytes: 0,
        mask: event.decision.mask,
        kept: Array(L).fill(H),
        scores: null,
        tokens: event.tokens,
        batch: event.batch,
        edgeComputeMs: total,
      };
      steps.push(record);
      options.onStep?.(record);
    },
  });
  const { modules } = training;
  let after: number | null = NaN;
  let error: TrainingError | null = null;
  try {
    await training.trainer.run();
    after = await evaluate(options, modules);
  } catch (cause) {
    if (!(cause instanceof TrainingError)) throw cause;
    error = cause;
  }
  await options.onTrained?.(modules);
  return {
    ...summary(steps),
    totalMs: steps.reduce((sum, s) => sum + s.times.total, 0),
    ledger: [],
    evaluation: before === null || after === null ? null : { before, after },
    edgeMemoryBytes: engine.stats.allocatedBytes,
    devices: [],
    error,
  };
}

/** In place of a checkpoint's: both halves of the model are the caller's. */
const FINGERPRINT = "twin";

/** Names whose order is that of the numbers: devices of equal capacity get their heads in it. */
function nameOf(device: number): string {
  return `device ${String(device + 1).padStart(3, "0")}`;
}

function sizeOf({ layers, ends }: SimulatedModel, { lora }: RunSettings): Omit<StepShape, "length"> {
  const { layers: L, heads, hidden } = layers.shape;
  return { model: { layers: L, heads, hidden, vocabulary: ends.shape.vocabulary }, lora };
}

function devicesOf(devices: number | readonly SimulatedDevice[]) {
  const all: readonly SimulatedDevice[] = typeof devices === "number"
    ? Array.from({ length: devices }, () => ({}))
    : devices;
  const none = all.every((d) => d.data !== true);
  const list = all.map(({ capacity = 1, speed = 1, link, memory, data = false }, i) => ({
    capacity,
    speed,
    link,
    memory,
    data: data || (none && i === 0),
  }));
  const dataDevices = list.filter((d) => d.data).length;
  if (dataDevices !== 1) {
    throw new TypeError(
      `Cannot simulate as there must be one data device among the devices: there are ${dataDevices}`,
    );
  }
  return list;
}

/** Checks the links before anything starts: a failure of a device that there is not would never come. */
function requireLinks(all: readonly { readonly link?: LinkProfile | undefined }[], devices: number): void {
  for (const { link } of all) {
    if (link === undefined) continue;
    for (const [i, { device = 0 }] of (readLinkProfile(link).failures ?? []).entries()) {
      if (device < devices) continue;
      throw new TypeError(
        `Cannot simulate as failures[${i}].device of link "${link.name}" must be below the number of devices, ${devices}: current value is ${device}`,
      );
    }
  }
}

/** A step in virtual time: what of the wall's time its record holds means nothing. */
function virtualStep(record: StepRecord, edgeComputeMs: number): SimulatedStep {
  const { total, prune } = record.times;
  const wait = Math.max(0, total - edgeComputeMs);
  return { ...record, times: { total, prune, readback: 0, codec: 0, wait }, edgeComputeMs };
}

function summary(steps: readonly SimulatedStep[]) {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const steady = steps.length > 1 ? steps.slice(1) : steps;
  return {
    steps,
    msPerStep: mean(steady.map((s) => s.times.total)),
    // All of them: an embedding that came ahead counts in the step before its own.
    bytesPerStep: mean(steps.map((s) => s.bytes)),
  };
}

function checkEvaluation({ model, evaluation = [] }: SimulationOptions): void {
  if (evaluation.length > 0 && (model.deviceEngine ?? model.engine) !== model.engine) {
    throw new TypeError(
      "Cannot evaluate as devices and edge server must share an engine: the devices have another",
    );
  }
}

/** Mean loss over the evaluation batches, without label smoothing; `null` if there are none. */
async function evaluate(
  { model, evaluation = [] }: SimulationOptions,
  modules: readonly HeadModules[],
): Promise<number | null> {
  if (evaluation.length === 0) return null;
  const { engine, layers: base, ends } = model;
  const heads = new LocalHeads(modules); // not disposed: the modules are not its own
  const { layers: L, heads: H } = base.shape;
  // Without modules every head is pruned: the base model alone, where all Deltas are zero.
  const mask = new Uint8Array(L * H).fill(modules.length === 0 ? 1 : 0);
  let sum = 0;
  for (const batch of evaluation) {
    const data = new LocalData(ends, { labelSmoothing: 0 }, () => ({ batch, mode: "evaluate" }));
    const { loss } = await runStep({ engine, base, heads, data }, 0, (await data.next(0))!, mask);
    sum += loss!;
  }
  return sum / evaluation.length;
}
