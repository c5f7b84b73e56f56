/**
 * A user device: joins an edge server, owns some head modules, and may be the data device.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { type CheckpointSource, requireSameRun, type RunCheckpoint, saveHeads } from "./run_checkpoint.ts";
import { BackgroundSaver, type SavingTimes } from "./saving.ts";
import { ChannelClosedError, CheckpointError, HandshakeError, ProtocolError } from "../contracts/errors.ts";
import type { TokenSession } from "../generation/cached_session.ts";
import { type Adapter, adapterRange, loadIntoModules } from "../lora/adapter.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { keptHeads } from "../lora/head_mask.ts";
import { inputRows } from "../lora/input_mode.ts";
import { splitBatch, type StepPart, WHOLE_STEP } from "../contracts/micro_batches.ts";
import type { ModelEnds } from "../model/base.ts";
import {
  embedTokens,
  type LossSettings,
  modelLoss,
  partOfBatch,
  sumLosses,
  type TokenBatch,
} from "../model/loss.ts";
import { requireFiniteHeads, requireFiniteLoss } from "../lora/finite.ts";
import { type BatchPart, partsOfStep } from "../train/local_data.ts";
import type { HeadMode, HeadStatistics, StepMode } from "../contracts/ports.ts";
import { plainText, showValue } from "../contracts/plain_text.ts";
import type { Channel } from "../contracts/channel.ts";
import type { RunEnding } from "./run_events.ts";
import { leave, requireOrderlyEnd, type RunState, takeEnd } from "./run_end.ts";
import { checkWait } from "./wait_limits.ts";
import { findCodec } from "../protocol/codec.ts";
import type { WireCodec } from "../contracts/codec.ts";
import type { Frame, FrameOf } from "../protocol/frame.ts";
import type { ByteLedger } from "../protocol/ledger.ts";
import type { MetaOf } from "../protocol/messages.ts";
import { Peer } from "../protocol/peer.ts";
import { isSame, textOf } from "./_identity.ts";
import { RemoteSession } from "./remote_session.ts";
import { readWelcome, type Welcome } from "./welcome.ts";
import type { RunTask } from "../train/run_settings.ts";

/** What the data device brings along. Nothing of it but E, dh_L and, if shared, the loss leaves the device. */
export interface DataSide {
  /** Embedding, final norm and LM head. */
  readonly ends: ModelEnds;
  /** Settings of the loss in training; evaluation has no label smoothing. */
  readonly loss: LossSettings;
  /** Fingerprint of the checkpoint; the edge server's must be the same. */
  readonly fingerprint: string;
  /** Tell the edge server the loss of each step. @default {false} */
  readonly shareLoss?: boolean;
  /**
   * The next batch. Of a training step it is the whole batch, also where it is split (`RunSettings.accumulate`).
   *
   * @param step Training steps done so far; in the first call those of the checkpoint that the run goes on from.
   * @returns `null` to end the run.
   */
  next(step: number): { readonly batch: TokenBatch; readonly mode: StepMode } | null;
  /**
   * Asked after each `next`: true if the head modules, as they are before what `next` returned, are the best
   * so far by the validation that has just ended. All devices are told, see `UserDeviceOptions.onBest`.
   */
  isBest?(step: number): boolean;
  /** Called with the loss of each step. */
  onLoss?(step: number, mode: StepMode, loss: number): void;
  /**
   * Generates through the split once `next` has returned `null`, with `sample` or `beamSearch`, or asks how likely
   * texts are, with `session.logLikelihood`; the run ends when it resolves. Only E of the tokens leaves the
   * device. Not in tensor-parallel runs.
   *
   * @param session Continuations of one prompt at a time; use ends with this call.
   */
  generate?(session: TokenSession): Promise<void>;
}

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
   * @default {that of the checkpoint, if there is one; else none}
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
  /** Checkpoints of this device, of the run that goes on; the edge server says which of them it is. */
  readonly resume?: CheckpointSource | undefined;
  /** Called with the checkpoint that the run goes on from, before anything is done with it; may throw to refuse. */
  onResume?(checkpoint: RunCheckpoint): void;
  /** What the run must be for. @default {"train"} */
  readonly task?: RunTask | undefined;
  /** In a run for generation: what this device's heads have learnt, an adapter or some heads of one. */
  readonly adapter?: Adapter | undefined;
  /** Called once the run starts. */
  onWelcome?(welcome: Welcome): void;
  /**
   * Saves what this device needs to go on: called after the steps that the edge server names, and when the
   * run ends in good order. Steps go on meanwhile; the next save waits until it is done. What the data side is to
   * go on from is the caller's to add, before anything is waited for.
   */
  onCheckpoint?(checkpoint: RunCheckpoint): void | Promise<void>;
  /** Called with head modules that are the best so far by the data device's validation, after `step` training steps. */
  onBest?(step: number, modules: HeadModules): void | Promise<void>;
  /** Called with true when the run is paused, and with false when it goes on. */
  onPause?(paused: boolean): void;
  /** Called after each training step of the heads. */
  onStep?(step: number): void;
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
  /** Where the run ended if it did so in good order: after its last step, or stopped on purpose; else `null`. */
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
 */
export async function runUserDevice(options: UserDeviceOptions): Promise<UserDeviceResult> {
  const { engine, channel, name, capacity, data, timeoutMs = 120_000 } = options;
  const { signal, maxQueuedBytes, resume, task = "train", adapter } = options;
  if ((adapter !== undefined) !== (task === "generate" && capacity > 0)) {
    await channel.close("nothing to generate with");
    throw new TypeError(
      `Cannot join as an adapter must be given in a run for generation by a device with heads, and only there: task is "${task}", capacity ${capacity}, the adapter is ${
        adapter === undefined ? "missing" : "given"
      }`,
    );
  }
  checkWait("timeoutMs", timeoutMs);
  const peer = new Peer(channel, {
    timeoutMs: checkWait("joinTimeoutMs", options.joinTimeoutMs ?? timeoutMs),
    signal,
    maxQueuedBytes,
    remote: "server",
    ...(options.onPause && { onPause: (paused: boolean) => options.onPause?.(paused) }),
  });
  peer.name = "the edge server";
  let id: string | undefined;
  let welcome: Welcome;
  let checkpoint: RunCheckpoint | null = null;
  let modules: HeadModules | null = null;
  try {
    const learnt = adapter === undefined ? null : { range: adapterRange(adapter), lora: adapter.lora };
    id = await ownId(options);
    await peer.send("hello", {
      meta: {
        name,
        ...(id !== undefined && { id }),
        capacity,
        data: data !== undefined,
        fingerprint: data?.fingerprint ?? "",
        sharesLoss: data?.shareLoss ?? false,
        ...(resume === undefined ? {} : { checkpoints: { run: resume.run, steps: resume.steps } }),
        task,
        ...(learnt === null ? {} : { learnt }),
      },
    });
    welcome = readWelcome(await receiveWelcome(peer));
    peer.run = welcome.run;
    peer.codec = findCodec(welcome.settings.codec, options.codecs);
    if (resume === undefined && welcome.start > 0) {
      throw new HandshakeError(
        `Cannot join as a run without checkpoints must start at step 0: current value is ${welcome.start}`,
      );
    }
    if (resume !== undefined) {
      checkpoint = await resume.load(welcome.start);
      const { settings, range } = welcome;
      requireSameRun(checkpoint, { settings, range, ...(data && { fingerprint: data.fingerprint }) });
      options.onResume?.(checkpoint);
    }
    if (welcome.settings.task !== task) {
      throw new HandshakeError(
        `Cannot take part as the run must be for what this device joined for, "${task}": it is for "${welcome.settings.task}"`,
      );
    }
    const { range } = welcome;
    if (learnt !== null && (range?.first !== learnt.range.first || range?.count !== learnt.range.count)) {
      throw new HandshakeError(
        `Cannot take part as this device must have the heads that it learnt, ${
          JSON.stringify(learnt.range)
        }: the run gave it ${JSON.stringify(range)}`,
      );
    }
    if (range !== null) {
      modules = new HeadModules(engine, {
        lora: welcome.settings.lora,
        optimizer: welcome.settings.optimizer,
        ...welcome.model,
        range,
        seed: welcome.settings.seed,
        steps: welcome.settings.steps,
      });
      if (adapter !== undefined) loadIntoModules(adapter, modules);
      options.prepare?.(modules);
      if (checkpoint?.heads) modules.restore(checkpoint.heads.state);
    }
  } catch (error) {
    modules?.[Symbol.dispose]();
    const reason = error instanceof Error ? error.message : String(error);
    // The other side learns why this device does not take part.
    const refuses = error instanceof HandshakeError || error instanceof CheckpointError;
    const told = refuses ? peer.send("refuse", { meta: { reason } }).catch(() => {}) : undefined;
    const waits = peer.isSilent || signal?.aborted ? { signal: AbortSignal.abort() } : {};
    await peer.close(plainText(reason, 100), waits);
    await told;
    throw error;
  }
  peer.timeoutMs = timeoutMs;
  options.onWelcome?.(welcome);
  const state: RunState = { steps: welcome.start, reason: "", ending: null };
  const { accumulate, microBatches } = welcome.settings;
  const saver = new BackgroundSaver();
  let saved: number | null = null;
  const save = async (step: number) => {
    if (saved === step || options.onCheckpoint === undefined || welcome.settings.task !== "train") return;
    saved = step;
    const read = async () => {
      const heads = modules === null ? null : await saveHeads(modules);
      if (heads !== null) requireFiniteHeads(step, heads.state);
      return heads;
    };
    await saver.save(read, (heads) =>
      options.onCheckpoint!({
        run: welcome.run,
        step,
        settings: welcome.settings,
        fingerprint: data?.fingerprint ?? "",
        heads,
        pruning: null,
        devices: [{ name, ...(id !== undefined && { id }), capacity, range: welcome.range }],
        data: null,
      }));
  };
  const saves: SaveHooks = {
    // Nobody begins a step that is to be saved before the save before it is on every disk: so all parties have a
    // step in common, whenever they are killed.
    announced: () => saver.settled(),
    trained: async (step, isSaved) => {
      if (isSaved) await save(step);
    },
  };
  let error: unknown = null;
  const lanes: Promise<void>[] = [];
  try {
    if (modules !== null) lanes.push(serveHeads(peer, engine, modules, welcome, state, options, saves));
    if (data !== undefined) {
      // Where there are heads, their lane says when a step is done.
      const own = modules === null ? saves : undefined;
      lanes.push(
        serveData(peer, engine, data, state, { start: welcome.start, accumulate, microBatches, saves: own }),
      );
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
  await Promise.allSettled([...lanes, saver.settled()]);
  const { steps, reason, ending } = state;
  const { ledger } = peer;
  return { modules, welcome, steps, ledger, saving: saver.times, reason, ending, error };
}

/** The id that a device joins with: a checkpoint is of one device only. */
async function ownId({ name, id, resume }: UserDeviceOptions): Promise<string | undefined> {
  if (resume === undefined) return id;
  const [saved] = (await resume.load(resume.steps.at(-1)!)).devices ?? [];
  const own = { name, id: id ?? saved?.id };
  if (saved === undefined || isSame(saved, own)) return own.id;
  throw new CheckpointError(
    `Cannot go on with run "${resume.run}" as the checkpoint must be of this device, ${
      textOf(own)
    }: it is of ${textOf(saved)}`,
  );
}

/** Waits for the start of the run; returns what the server says of it. */
export async function receiveWelcome(peer: Peer): Promise<MetaOf<"welcome">> {
  const frame = await peer.next("control", "the start of the run");
  if (frame.kind === "end") {
    throw new ChannelClosedError(`Cannot join as the server ended the run: ${frame.meta.reason}`);
  }
  return peer.check(frame, "welcome", {}).meta;
}

/** What a device does where the edge server says that a step's state is to be saved. */
export interface SaveHooks {
  /** Called when it says so. */
  announced(): Promise<void>;
  /** Called after each training step. */
  trained(step: number, isSaved: boolean): Promise<void>;
}

/** Where a device is within a step. */
interface HeadStepState {
  readonly step: number;
  readonly mode: HeadMode;
  readonly mask: Uint8Array;
  /** Which part of the step it is. */
  readonly part: StepPart;
  /** True if the state after it is to be saved. */
  readonly isSaved: boolean;
  /** The lowest layer with a kept head on any device; it sends no gradient of X. */
  readonly lowest: number;
  /** Layers with a kept head, ascending. */
  readonly layers: readonly number[];
  /** Rows of each micro-batch; `null` for one of any size. */
  readonly rows: readonly (number | null)[];
  /** Layers of each micro-batch that went forward, then those that went back. */
  readonly forward: number[];
  readonly backward: number[];
}

async function serveHeads(
  peer: Peer,
  engine: Engine,
  modules: HeadModules,
  welcome: Welcome,
  state: RunState,
  options: UserDeviceOptions,
  saves: SaveHooks,
): Promise<void> {
  const { layers } = welcome.model;
  const { range, lora } = modules.options;
  const { headSize, input } = modules;
  const targets = lora.targets.length;
  const { overlap } = welcome.settings;
  let current: HeadStepState | null = null;

  const { clipNorm } = welcome.settings;
  /** This device's part of the squared norm goes out, the factor of all gradients comes back. */
  const clipped = async ({ step, mask }: HeadStepState) => {
    const data = Float32Array.of(await modules.squaredGradientNorm(mask));
    await peer.send("squaredNorm", { step, tensors: [{ dtype: "f32", shape: [1], data }] });
    const { tensors } = await peer.receive("clip", { step, shapes: [[1]] });
    const factor = tensors[0]!.data[0]!;
    if (factor >= 0 && factor <= 1) return factor;
    throw new ProtocolError(
      `Cannot clip step ${step} as the factor must be from 0 to 1: current value is ${factor}`,
    );
  };

  const finishPart = async (at: HeadStepState) => {
    if (at.mode === "evaluate" || at.part.index + 1 < at.part.count) return;
    const probe = at.mode === "probe";
    const statistics: HeadStatistics = probe
      ? { gradientNorm: await modules.gradientNorms() }
      : await modules.update(
        at.step,
        at.mask,
        welcome.statistics,
        clipNorm === null ? 1 : await clipped(at),
      );
    const sent = probe ? ["gradientNorm"] as const : welcome.statistics;
    if (sent.length > 0) {
      await peer.send("statistics", {
        step: at.step,
        tensors: sent.map((which) => ({
          dtype: "f32",
          shape: [layers, range.count],
          data: statistics[which] ?? new Float32Array(layers * range.count),
        })),
      });
    }
    if (probe) return;
    state.steps = at.step + 1;
    options.onStep?.(at.step);
    await saves.trained(state.steps, at.isSaved);
  };

  for (;;) {
    const frame = await peer.next("heads", "the next step");
    if (frame.kind === "end") return takeEnd(frame, state);
    if (frame.kind === "mask") {
      if (current !== null && !isDone(current)) {
        throw new ProtocolError(
          `Cannot begin step ${frame.step} as step ${current.step} must be done: it is not`,
        );
      }
      current = beginStep(peer, frame, layers, range.count, current);
      if (current.isSaved && current.part.index === 0) await saves.announced();
      if (frame.meta.best === true) await options.onBest?.(state.steps, modules);
      if (current.layers.length === 0) await finishPart(current);
      continue;
    }
    if (current === null) {
      throw new ProtocolError(`Cannot handle "${frame.kind}" as a step must have begun: none has`);
    }
    const { step } = current;
    const { microBatch = 0 } = frame;
    const rows = current.rows[microBatch];
    if (rows === undefined) {
      throw new ProtocolError(
        `Cannot go on with step ${step} as micro-batches must be below ${current.rows.length}: current value is ${microBatch}`,
      );
    }
    if (frame.kind === "input") {
      const layer = current.layers[current.forward[microBatch]!];
      if (layer === undefined) {
        throw new ProtocolError(
          `Cannot go forward as a layer of step ${step}, micro-batch ${microBatch} must be left: there is none`,
        );
      }
      const kept = keptHeads(current.mask, range.count, layer, 0, range.count);
      const { tensors } = peer.check(frame, "input", {
        step,
        layer,
        microBatch,
        shapes: [input.shape(kept.length, rows, welcome.model)],
      });
      const { shape, data } = tensors[0]!;
      const length = shape[shape.length - 2]!;
      const size = inputRows(shape);
      const x = engine.upload(data as Float32Array, size.rows, size.columns, "input");
      const firstRow = current.rows.slice(0, microBatch).reduce<number>(
        (sum, n) => sum + n!,
        current.part.firstRow,
      );
      const deltas = modules.forward(layer, kept, x, {
        step,
        mode: current.mode,
        ownsInput: true,
        microBatch: { index: microBatch, firstRow },
        part: current.part.index,
      });
      const values = await engine.read(deltas);
      for (const delta of deltas) delta.dispose();
      current.forward[microBatch]!++;
      await peer.send("delta", {
        step,
        layer,
        microBatch,
        tensors: [{ dtype: "f32", shape: [targets, kept.length, length, headSize], data: join(values) }],
      });
      if (current.rows.length > 1) await engine.yieldToEventLoop();
      continue;
    }
    if (frame.kind === "deltaGradient") {
      const { layers: own } = current;
      const layer = own[own.length - 1 - current.backward[microBatch]!];
      if (layer === undefined || current.mode === "evaluate" || current.forward[microBatch]! < own.length) {
        throw new ProtocolError(
          `Cannot go back in step ${step}, micro-batch ${microBatch} as all its layers must have gone forward, in training: they have not`,
        );
      }
      const kept = keptHeads(current.mask, range.count, layer, 0, range.count);
      const shapes = [[targets, kept.length, rows, headSize]];
      const { tensors } = peer.check(frame, "deltaGradient", { step, layer, microBatch, shapes });
      const { shape, data } = tensors[0]!;
      const length = shape[2]!;
      const size = kept.length * length * headSize;
      const dDeltas = Array.from(
        { length: targets },
        (_, k) =>
          engine.upload(
            (data as Float32Array).subarray(k * size, (k + 1) * size),
            kept.length * length,
            headSize,
            "delta gradient",
          ),
      );
      // What the edge server waits for comes first: the gradients of the weights are added up afterwards.
      const needsInput = layer > current.lowest;
      const later = overlap && needsInput;
      const dx = modules.backward(layer, dDeltas, { step, needsInput, microBatch, later });
      if (dx !== null) {
        const [values] = await engine.read([dx]);
        dx.dispose();
        await peer.send("inputGradient", {
          step,
          layer,
          microBatch,
          tensors: [{
            dtype: "f32",
            shape: input.shape(kept.length, length, welcome.model),
            data: values!,
          }],
        });
      }
      if (later) {
        await engine.yieldToEventLoop();
        modules.accumulate(layer);
        engine.flush();
      }
      current.backward[microBatch]!++;
      if (isDone(current)) await finishPart(current);
      continue;
    }
    throw new ProtocolError(
      `Cannot handle "${frame.kind}" as only mask, input and deltaGradient come from an edge server`,
    );
  }
}

function isDone({ mode, layers, forward, backward }: HeadStepState): boolean {
  return (mode === "evaluate" ? forward : backward).every((n) => n === layers.length);
}

function beginStep(
  peer: Peer,
  frame: FrameOf<"mask">,
  layers: number,
  count: number,
  before: HeadStepState | null,
): HeadStepState {
  peer.check(frame, "mask", { shapes: [[layers, count]] });
  const { mode, lowest, rows = [null] } = frame.meta;
  const mask = frame.tensors[0]!.data as Uint8Array;
  if ((mode === "probe" && mask.includes(1)) || mask.some((z) => z > 1) || lowest > layers) {
    throw new ProtocolError(
      `Cannot begin step ${frame.step} as its mask must be 0 or 1, in a probe 0, and its lowest layer at most ${layers}: they are not`,
    );
  }
  const part = readPart(frame, before);
  if (part.index > 0 && (mode !== "train" || mask.some((z, i) => z !== before!.mask[i]))) {
    throw new ProtocolError(
      `Cannot go on with step ${frame.step} as all its parts must be training with one mask: part ${part.index} is not`,
    );
  }
  const kept: number[] = [];
  for (let l = 0; l < layers; l++) if (keptHeads(mask, count, l, 0, count).length > 0) kept.push(l);
  const none = rows.map(() => 0);
  return {
    step: frame.step,
    mode,
    mask,
    part,
    isSaved: mode === "train" && frame.meta.save === true,
    lowest,
    layers: kept,
    rows,
    forward: none,
    backward: [...none],
  };
}

/** Which part of a step a mask begins: the first, or the one after the last. */
function readPart({ meta, step }: FrameOf<"mask">, before: HeadStepState | null): StepPart {
  const [index, count, firstRow] = meta.part ?? [0, 1, 0];
  const within = before !== null && before.part.index + 1 < before.part.count;
  const fits = within
    ? step === before.step && index === before.part.index + 1 && count === before.part.count &&
      firstRow > before.part.firstRow
    : index === 0 && firstRow === 0;
  if (!fits) {
    throw new ProtocolError(
      `Cannot begin step ${step} as ${
        within ? `part ${before.part.index + 1} of step ${before.step}` : "the first part of a step"
      } must come next: current value is ${showValue(meta.part ?? null)}`,
    );
  }
  return meta.part === undefined ? WHOLE_STEP : { index, count, firstRow };
}

function join(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const joined = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Hands batches out and answers with losses' gradients until the run ends. */
export async function serveData(
  peer: Peer,
  engine: Engine,
  data: DataSide,
  state: RunState,
  { start, accumulate, microBatches, saves }: {
    readonly start: number;
    readonly accumulate: number;
    readonly microBatches: number;
    readonly saves?: SaveHooks | undefined;
  },
): Promise<void> {
  let step = start;
  for (;;) {
    const next = data.next(step);
    const best = data.isBest?.(step) ?? false;
    if (next === null) {
      await data.generate?.(new RemoteSession(peer, data.ends, step));
      await peer.send("finished", { step, meta: best ? { best } : {} });
      // The edge server ends the run for everyone; wait for its word.
      const frame = await peer.next("data", "the end of the run");
      if (frame.kind !== "end") {
        throw new ProtocolError(`Cannot end the run as "end" must come: it is "${frame.kind}"`);
      }
      return takeEnd(frame, state);
    }
    const { mode } = next;
    const parts = partsOfStep(next.batch, mode === "train" ? accumulate : 1);
    const losses: Float32Array[] = [];
    let isSaved = false;
    const announced = async () => {
      if (!isSaved) await saves?.announced();
      isSaved = true;
    };
    for (const part of parts) {
      const at = { ...part, step, mode, best, microBatches, announced };
      const answer = await servePart(peer, engine, data, at);
      if ("kind" in answer) return takeEnd(answer, state);
      losses.push(...answer);
    }
    const loss = sumLosses(losses);
    if (data.shareLoss) await peer.send("loss", { step, meta: { loss } });
    data.onLoss?.(step, mode, loss);
    if (mode !== "train") continue;
    step++;
    await saves?.trained(step, isSaved);
  }
}

/** Sends E of a batch or a part of it, and answers h_L; returns losses, or the end of the run. */
async function servePart(
  peer: Peer,
  engine: Engine,
  data: DataSide,
  at: BatchPart & {
    readonly step: number;
    readonly mode: StepMode;
    readonly best: boolean;
    readonly microBatches: number;
    readonly announced: () => Promise<void>;
  },
): Promise<readonly Float32Array[] | FrameOf<"end">> {
  const { batch, part: { index, count }, step, mode, best } = at;
  const { hidden } = data.ends.shape;
  const embedding = embedTokens(data.ends, batch);
  const [values] = await engine.read([embedding]);
  embedding.dispose();
  await peer.send("embedding", {
    step,
    meta: { mode, ...(count > 1 ? { part: [index, count] } : {}), ...(best && index === 0 ? { best } : {}) },
    tensors: [{ dtype: "f32", shape: [batch.batch, batch.length, hidden], data: values! }],
  });
  const pieces = splitBatch(batch, at.microBatches);
  const all = () => new Set(pieces.keys());
  // One probe may come before the step itself: its gradients are answered, nothing else happens.
  let probe: Set<number> | null = null;
  const left = all();
  const losses: (readonly Float32Array[])[] = [];
  while (left.size > 0) {
    const frame = await peer.next("data", `"hidden"`);
    if (frame.kind === "end") return frame;
    const { microBatch = 0 } = frame;
    const probing = frame.kind === "hidden" && frame.meta.probe === true;
    if (probing && probe === null && mode === "train" && count === 1 && left.size === pieces.length) {
      probe = all();
    }
    const open = probing ? probe : (probe?.size ?? 0) > 0 ? null : left;
    const piece = pieces[microBatch];
    if (piece === undefined || open?.delete(microBatch) !== true) {
      throw new ProtocolError(
        `Cannot take "${frame.kind}" in step ${step} as each of its ${pieces.length} micro-batches must come once, before them those of a probe, at most one, in training of a whole batch: micro-batch ${microBatch}${
          probing ? " of a probe" : ""
        } does not fit`,
      );
    }
    if (frame.kind === "hidden" && frame.meta.save === true) await at.announced();
    const expected = { step, microBatch, shapes: [[piece.rows, hidden]] };
    const answer = await answerHidden(peer, engine, data, {
      ...at,
      batch: pieces.length === 1 ? batch : partOfBatch(batch, piece),
      frame: peer.check(frame, "hidden", expected),
    });
    if (!probing) losses[microBatch] = answer;
    if (pieces.length > 1) await engine.yieldToEventLoop();
  }
  return losses.flat();
}

/** Computes losses of h_L and answers its gradient in training. */
async function answerHidden(
  peer: Peer,
  engine: Engine,
  data: DataSide,
  { batch, maskSum, step, mode, frame }: Omit<BatchPart, "part"> & {
    readonly step: number;
    readonly mode: StepMode;
    readonly frame: Frame;
  },
): Promise<readonly Float32Array[]> {
  const { shape, data: values } = frame.tensors[0]!;
  const [rows, hidden] = shape as [number, number];
  using h = engine.upload(values as Float32Array, rows, hidden, "h_L");
  const settings = { ...(mode === "train" ? data.loss : { labelSmoothing: 0 }), maskSum };
  const { losses, gradient } = modelLoss(data.ends, h, batch, settings, mode === "train");
  const results = await engine.read(gradient === null ? losses : [gradient, ...losses]);
  for (const tensor of losses) tensor.dispose();
  gradient?.dispose();
  // Before dh_L is sent: no device learns from it.
  requireFiniteLoss(step, sumLosses(results.slice(gradient === null ? 0 : 1)), mode);
  if (gradient !== null) {
    await peer.send("hiddenGradient", {
      step,
      microBatch: frame.microBatch ?? 0,
      tensors: [{ dtype: "f32", shape, data: results.shift()! }],
    });
  }
  return results;
}
