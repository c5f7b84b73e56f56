/**
 * A user device: joins an edge server, owns some head modules, and may be the data device.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { Channel } from "../contracts/channel.ts";
import type { WireCodec } from "../contracts/codec.ts";
import { CheckpointError, HandshakeError, RunStateError, TrainingError } from "../contracts/errors.ts";
import { plainText } from "../contracts/plain_text.ts";
import { type Adapter, adapterRange, loadIntoModules } from "../lora/adapter.ts";
import { requireFiniteHeads } from "../lora/finite.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { findCodec } from "../protocol/codec.ts";
import type { ByteLedger } from "../protocol/ledger.ts";
import { splitShape } from "../protocol/pass.ts";
import { Peer } from "../protocol/peer.ts";
import type { RunTask } from "../train/run_settings.ts";
import { isSame, textOf } from "./_identity.ts";
import { DataDevice, type DataSide } from "./data_device.ts";
import { HeadDevice } from "./head_device.ts";
import { requireSameRun, type RunState, type RunStateSource, saveHeads } from "./run_state.ts";
import { leave, requireOrderlyEnd, type RunProgress } from "./run_end.ts";
import type { RunEnding } from "./run_events.ts";
import { BackgroundSaver, type SaveHooks, type SavingTimes } from "../train/saving.ts";
import { checkWait } from "./wait_limits.ts";
import { readWelcome, receiveWelcome, type Welcome } from "./welcome.ts";

/** Options of `runUserDevice`. */
export interface UserDeviceOptions {
  /** The engine for head modules and data side. */
  readonly engine: Engine;
  /** An open channel to the edge server; closed at the end. */
  readonly channel: Channel;
  /** Name for people. */
  readonly name: string;
  /**
   * Who this device is, whatever its name: 8 to 64 characters, random, the same whenever it joins; see `newDeviceId`
   * and `deviceIdIn`. Devices of one name are told apart by it, and heads go back to whoever had them.
   *
   * @default {that of the state, if there is one; else none}
   */
  readonly id?: string | undefined;
  /** gamma, compute capacity in any unit that all devices share; 0 for a device without heads. */
  readonly capacity: number;
  /** Makes this the data device. */
  readonly data?: DataSide | undefined;
  /** Ends the run early; what was learnt is still returned. */
  readonly signal?: AbortSignal | undefined;
  /** Longest wait for the edge server during the run, in milliseconds. @default {120000} */
  readonly timeoutMs?: number | undefined;
  /** Longest wait for the other devices before the run starts, in milliseconds. @default {timeoutMs} */
  readonly joinTimeoutMs?: number | undefined;
  /** Codecs that this device knows besides the built-in ones. @default {[]} */
  readonly codecs?: readonly WireCodec[] | undefined;
  /** Most bytes of frames that may wait to be handled, see `PeerOptions`. @default {268435456} */
  readonly maxQueuedBytes?: number | undefined;
  /** Gives the fresh head modules other weights to start from. */
  readonly prepare?: ((modules: HeadModules) => void) | undefined;
  /** States of this device, of the run that goes on; the edge server says which of them it is. */
  readonly resume?: RunStateSource | undefined;
  /** Called with the state that the run goes on from, before anything is done with it; may throw to refuse. */
  onResume?(state: RunState): void;
  /** What the run must be for. @default {"train"} */
  readonly task?: RunTask | undefined;
  /**
   * What this device's heads have learnt before, an adapter or some heads of one: what a run for generation uses, and
   * a new run for training begins with.
   */
  readonly adapter?: Adapter | undefined;
  /** Called once the run starts. */
  onWelcome?(welcome: Welcome): void;
  /**
   * Saves what this device needs to go on: called after the steps that the edge server names, and when the
   * run ends without a fault. Steps go on meanwhile; the next save waits until it is done. What the data side is to
   * go on from is the caller's to add, before anything is waited for.
   */
  onState?(state: RunState): void | Promise<void>;
  /** Called with head modules that are the best so far by the data device's validation, after `step` training steps. */
  onBest?(step: number, modules: HeadModules): void | Promise<void>;
  /** Called with true when the run is paused, and with false when it goes on. */
  onPause?(paused: boolean): void;
  /** Called after each training step. */
  onStep?(step: number, figures: DeviceStep): void;
}

/** What a device knows of a training step, after it. */
export interface DeviceStep {
  /** Its part of the head mask, [L * H_m], 1 = pruned; empty on a device without heads. */
  readonly mask: Uint8Array;
  /** Bytes of all frames so far, sent and received. */
  readonly totalBytes: number;
}

/** What a device has at the end of a run. */
export interface UserDeviceResult {
  /** Its head modules; `null` for a device without heads. The caller's to dispose. */
  readonly modules: HeadModules | null;
  /** What the server said. */
  readonly welcome: Welcome;
  /** Training steps done. */
  readonly steps: number;
  /** What was sent and received. */
  readonly ledger: ByteLedger;
  /** What saving took. */
  readonly saving: SavingTimes;
  /** Why the run ended; empty if it ran to its end. */
  readonly reason: string;
  /** Where the run ended if it did so without a fault: after its last step, or stopped on purpose; else `null`. */
  readonly ending: RunEnding | null;
  /** The error that ended the run, if one did: here, at the edge server or at another device. */
  readonly error: unknown;
}

/**
 * Joins an edge server and takes part in a run until it ends.
 *
 * If the connection is lost or the run is stopped, the head modules as they were after the last
 * step are returned with the error, so that nothing learnt is lost. If the run ended because a loss, a norm or
 * a weight was not finite, on whatever party, `error` is a `TrainingError`.
 *
 * @throws {HandshakeError} If the server refuses, or the run's codec is not known here.
 * @throws {ChannelClosedError} If the run ended before it began.
 * @throws {DeadlineError} If it did not begin in time.
 * @throws {ProtocolError} If the server's welcome is not valid.
 * @throws {CheckpointError} If the adapter does not fit the run.
 * @throws {TypeError} If an adapter is missing, or given where none is needed.
 * @throws {RangeError} If a limit of waiting cannot be kept.
 * @category Training
 *
 * @example A device that holds heads and no data
 * ```ts
 * import {
 *   adapterOf,
 *   Engine,
 *   runUserDevice,
 *   saveAdapter,
 *   warmUp,
 *   webSocketTransport,
 * } from "@edgetuner/edgetuner";
 *
 * async function join(url: string, token: string): Promise<void> {
 *   using engine = await Engine.create();
 *   await warmUp(engine, { heads: true }); // so that nobody waits for this device's shaders
 *   const channel = await webSocketTransport({ url, token }).connect();
 *   const { modules, error, steps } = await runUserDevice({ engine, channel, name: "laptop", capacity: 5 });
 *   using learnt = modules;
 *   if (learnt !== null) await saveAdapter("runs/laptop", await adapterOf(learnt));
 *   if (error !== null) throw error;
 *   console.log(`${steps} steps`);
 * }
 * // await join("wss://edge.example/join/ws", "join-token");
 * void join;
 * ```
 *
 * @example An edge server and a device in one process
 * ```ts
 * import {
 *   defaultRunSettings,
 *   EdgeServer,
 *   Engine,
 *   inProcessTransport,
 *   loadEmbeddingAndHead,
 *   loadLayers,
 *   noPruner,
 *   openModel,
 *   runUserDevice,
 * } from "@edgetuner/edgetuner";
 *
 * const { model: { fingerprint, ...model } } = await openModel("cli/assets/tiny_gpt2");
 * using engine = await Engine.create();
 * using base = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * const settings = defaultRunSettings(1);
 * const server = new EdgeServer({ engine, base, fingerprint, settings, pruner: noPruner(), devices: 1 });
 * const tokens = Uint32Array.of(10, 20, 30, 40);
 * const batch = { tokens, targets: tokens, mask: new Float32Array(4).fill(1), batch: 1, length: 4 };
 * const { transport, listener } = inProcessTransport();
 * const device = runUserDevice({
 *   engine,
 *   channel: await transport.connect(),
 *   name: "laptop",
 *   capacity: 1,
 *   data: {
 *     ends,
 *     fingerprint,
 *     loss: { labelSmoothing: 0 },
 *     next: (step) => step < 1 ? { batch, mode: "train" } : null,
 *     onLoss: (step, _mode, loss) => console.log(step, loss),
 *   },
 * });
 * void server.join((await listener.accept())!);
 * await server.start();
 * const { modules, error } = await device;
 * modules?.[Symbol.dispose]();
 * await listener[Symbol.asyncDispose]();
 * if (error !== null) throw error;
 * ```
 */
export async function runUserDevice(options: UserDeviceOptions): Promise<UserDeviceResult> {
  const { channel, capacity, timeoutMs = 120_000, signal, task = "train", adapter } = options;
  const isNeeded = task === "generate" && capacity > 0;
  if (adapter === undefined ? isNeeded : capacity === 0) {
    await channel.close("no heads, or nothing to generate with");
    throw new TypeError(
      `Cannot join as an adapter must be given in a run for generation by a device with heads, and never by one without: task is "${task}", capacity ${capacity}, the adapter is ${
        adapter === undefined ? "missing" : "given"
      }`,
    );
  }
  const base = options.data?.fingerprint ?? "";
  if (adapter !== undefined && adapter.fingerprint !== "" && base !== "" && adapter.fingerprint !== base) {
    await channel.close("an adapter of another model");
    throw new CheckpointError(
      `Cannot join as the adapter must have been learnt on this device's model, ${
        base.slice(0, 12)
      }: its base is ${adapter.fingerprint.slice(0, 12)}`,
    );
  }
  checkWait("timeoutMs", timeoutMs);
  const peer = new Peer(channel, {
    timeoutMs: checkWait("joinTimeoutMs", options.joinTimeoutMs ?? timeoutMs),
    signal,
    maxQueuedBytes: options.maxQueuedBytes,
    remote: "server",
    ...(options.onPause && { onPause: (paused: boolean) => options.onPause?.(paused) }),
  });
  peer.name = "the edge server";
  const joined = await joinRun(peer, options);
  peer.timeoutMs = timeoutMs;
  options.onWelcome?.(joined.welcome);
  return await takePart(peer, joined, options);
}

/** A device that has joined. */
interface Joined {
  readonly id: string | undefined;
  readonly welcome: Welcome;
  readonly modules: HeadModules | null;
}

/** Says hello, waits for the welcome, and makes the head modules; whatever goes wrong is said to the edge server. */
async function joinRun(peer: Peer, options: UserDeviceOptions): Promise<Joined> {
  const { signal } = options;
  const made: HeadModules[] = [];
  try {
    const id = await ownId(options);
    await sayHello(peer, id, options);
    const welcome = readWelcome(await receiveWelcome(peer));
    peer.run = welcome.run;
    peer.codec = findCodec(welcome.settings.codec, options.codecs);
    const state = await stateOf(welcome, options);
    requireOwnRun(welcome, options);
    return { id, welcome, modules: makeModules(welcome, state, { options, made }) };
  } catch (error) {
    made[0]?.[Symbol.dispose]();
    const reason = error instanceof Error ? error.message : String(error);
    // The other side learns why this device does not take part.
    const refuses = error instanceof HandshakeError || error instanceof CheckpointError ||
      error instanceof RunStateError;
    const told = refuses ? peer.send("refuse", { meta: { reason } }).catch(() => {}) : undefined;
    const waits = peer.isSilent || signal?.aborted ? { signal: AbortSignal.abort() } : {};
    await peer.close(plainText(reason, 100), waits);
    await told;
    throw error;
  }
}

async function sayHello(peer: Peer, id: string | undefined, options: UserDeviceOptions): Promise<void> {
  const { name, capacity, data, resume, task = "train", adapter } = options;
  await peer.send("hello", {
    meta: {
      name,
      ...(id !== undefined && { id }),
      capacity,
      data: data !== undefined,
      fingerprint: data?.fingerprint ?? adapter?.fingerprint ?? "",
      sharesLoss: data?.shareLoss ?? false,
      ...(resume === undefined ? {} : { states: { run: resume.run, steps: resume.steps } }),
      task,
      ...(adapter === undefined || task === "train"
        ? {}
        : { learnt: { range: adapterRange(adapter), lora: adapter.lora } }),
    },
  });
}

/** The state that the run goes on from; `null` in a new run. */
async function stateOf(
  { start, settings, range }: Welcome,
  options: UserDeviceOptions,
): Promise<RunState | null> {
  const { resume, data } = options;
  if (resume === undefined) {
    if (start === 0) return null;
    throw new HandshakeError(
      `Cannot join as a run without states must start at step 0: current value is ${start}`,
    );
  }
  const state = await resume.load(start);
  requireSameRun(state, { settings, range, ...(data && { fingerprint: data.fingerprint }) });
  options.onResume?.(state);
  return state;
}

/** Checks that the run is for what this device joined for, with the heads that it has learnt. */
function requireOwnRun({ settings, range }: Welcome, { task = "train", adapter }: UserDeviceOptions): void {
  if (settings.task !== task) {
    throw new HandshakeError(
      `Cannot take part as the run must be for what this device joined for, "${task}": it is for "${settings.task}"`,
    );
  }
  if (adapter === undefined || task === "train") return;
  const learnt = adapterRange(adapter);
  if (range?.first === learnt.first && range.count === learnt.count) return;
  throw new HandshakeError(
    `Cannot take part as this device must have the heads that it learnt, ${
      JSON.stringify(learnt)
    }: the run gave it ${JSON.stringify(range)}`,
  );
}

/** The device's head modules, in `made` from the moment they exist; `null` for a device without heads. */
function makeModules(
  { settings, model, range, repeats }: Welcome,
  state: RunState | null,
  { options, made }: { readonly options: UserDeviceOptions; readonly made: HeadModules[] },
): HeadModules | null {
  if (range === null) return null;
  const { lora, optimizer, seed, steps } = settings;
  const modules = new HeadModules(options.engine, {
    lora,
    optimizer,
    ...model,
    range,
    seed,
    steps,
    keepsCopy: repeats,
  });
  made.push(modules);
  if (options.adapter !== undefined) loadIntoModules(options.adapter, modules);
  options.prepare?.(modules);
  if (state?.heads) modules.restore(state.heads.state);
  return modules;
}

/** Runs the lanes of a device until the run ends, and says goodbye. */
async function takePart(
  peer: Peer,
  { id, welcome, modules }: Joined,
  options: UserDeviceOptions,
): Promise<UserDeviceResult> {
  const { engine, data, signal } = options;
  const state: RunProgress = { steps: welcome.start, reason: "", ending: null };
  const saver = new BackgroundSaver();
  const save = saveOnce({ id, welcome, modules }, saver, options);
  const saves: SaveHooks = {
    // Nobody begins a step that is to be saved before the save before it is on every disk: so all parties have a
    // step in common, whenever they are killed.
    announced: () => saver.settled(),
    trained: async (step, isSaved) => {
      if (isSaved) await save(step);
    },
  };
  const tell = (step: number, mask: Uint8Array) =>
    options.onStep?.(step, { mask, totalBytes: peer.ledger.totalBytes });
  let error: unknown = null;
  const lanes: Promise<void>[] = [];
  const heads = modules === null ? null : new HeadDevice({
    ...{ peer, engine, modules, welcome, state, saves },
    onBest: (step, modules) => options.onBest?.(step, modules),
    onStep: (step, mask) => tell(step, mask),
  });
  try {
    if (heads !== null) lanes.push(heads.run());
    if (data !== undefined) {
      const { start, model, settings: { accumulate, microBatches } } = welcome;
      const run = splitShape(model, welcome.settings, { sharesLoss: data.shareLoss ?? false });
      // Where there are heads, their lane says when a step is done.
      const trained: SaveHooks["trained"] = async (steps, isSaved) => {
        tell(steps - 1, new Uint8Array(0));
        await saves.trained(steps, isSaved);
      };
      const own = modules === null ? { ...saves, trained } : undefined;
      const common = { peer, engine, data, run, state, start };
      lanes.push(new DataDevice({ ...common, accumulate, microBatches, saves: own }).run());
    }
    await Promise.all(lanes);
    if (state.ending !== null) {
      const { step, best } = state.ending;
      if (modules !== null && best) await options.onBest?.(step, modules);
      await save(step);
      await saver.settled();
    }
    requireOrderlyEnd(state);
  } catch (cause) {
    error = cause;
  }
  await leave(peer, error, signal);
  // The modules are the caller's from here on: no lane may use them any more.
  await Promise.allSettled(lanes);
  if (!(error instanceof TrainingError)) await heads?.saveLast().catch(() => {});
  await Promise.allSettled([saver.settled()]);
  const { steps, reason, ending } = state;
  const { ledger } = peer;
  return { modules, welcome, steps, ledger, saving: saver.times, reason, ending, error };
}

/** Saves what the device needs to go on after a step, each step once. */
function saveOnce(
  { id, welcome, modules }: Joined,
  saver: BackgroundSaver,
  options: UserDeviceOptions,
): (step: number) => Promise<void> {
  const { name, capacity, data } = options;
  const { run, settings, range } = welcome;
  let saved: number | null = null;
  return async (step) => {
    if (saved === step || options.onState === undefined || settings.task !== "train") return;
    saved = step;
    const read = async () => {
      const heads = modules === null ? null : await saveHeads(modules);
      if (heads !== null) requireFiniteHeads(step, heads.state);
      return heads;
    };
    await saver.save(read, (heads) =>
      options.onState!({
        run,
        step,
        settings,
        fingerprint: data?.fingerprint ?? "",
        heads,
        pruning: null,
        devices: [{ name, ...(id !== undefined && { id }), capacity, range }],
        data: null,
      }));
  };
}

/** The id that a device joins with: a state is of one device only. */
async function ownId({ name, id, resume }: UserDeviceOptions): Promise<string | undefined> {
  if (resume === undefined) return id;
  const [saved] = (await resume.load(resume.steps.at(-1)!)).devices ?? [];
  const own = { name, id: id ?? saved?.id };
  if (saved === undefined || isSame(saved, own)) return own.id;
  throw new RunStateError(
    `Cannot go on with run "${resume.run}" as the state must be of this device, ${textOf(own)}: it is of ${
      textOf(saved)
    }`,
  );
}
