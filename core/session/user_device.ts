/**
 * A user device: joins an edge server, owns some head modules, and may be the data device.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { CheckpointError, HandshakeError, ProtocolError } from "../errors.ts";
import type { DecodingSession } from "../generation/model.ts";
import { type Adapter, adapterRange, loadIntoModules } from "../lora/adapter.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { keptHeads } from "../lora/local_heads.ts";
import { MAX_MICRO_BATCHES } from "../micro_batches.ts";
import type { ModelEnds } from "../model/base.ts";
import { embedTokens, type LossSettings, modelLoss, sumLosses, type TokenBatch } from "../model/loss.ts";
import type { HeadMode, HeadStatistics, StepMode } from "../ports.ts";
import type { Channel } from "../transport.ts";
import { findCodec, type WireCodec } from "../wire/codec.ts";
import { type Frame, PROTOCOL_VERSION } from "../wire/frame.ts";
import type { ByteLedger } from "../wire/ledger.ts";
import { Peer } from "../wire/peer.ts";
import { RemoteSession } from "./remote_session.ts";
import { readWelcome, type RunTask, type Welcome } from "./settings.ts";

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
   * The next batch.
   *
   * @param step Training steps done so far.
   * @returns `null` to end the run.
   */
  next(step: number): { readonly batch: TokenBatch; readonly mode: StepMode } | null;
  /** Called with the loss of each step. */
  onLoss?(step: number, mode: StepMode, loss: number): void;
  /**
   * Generates through the split once `next` has returned `null`, with `sample` or `beamSearch`; the run
   * ends when it resolves. Only E of the tokens leaves the device. Not in tensor-parallel runs.
   *
   * @param session Continuations of one prompt at a time; use ends with this call.
   */
  generate?(session: DecodingSession): Promise<void>;
}

/** Options of `runUserDevice`. */
export interface UserDeviceOptions {
  /** The engine for head modules and data side. */
  readonly engine: Engine;
  /** An open channel to the edge server; closed at the end. */
  readonly channel: Channel;
  /** Name for people. */
  readonly name: string;
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
  /** What the run must be for. @default {"train"} */
  readonly task?: RunTask | undefined;
  /** In a run for generation: what this device's heads have learnt, an adapter or some heads of one. */
  readonly adapter?: Adapter | undefined;
  /** Head modules to go on with instead of fresh ones. */
  readonly resume?: ((modules: HeadModules) => void) | undefined;
  /** Called once the run starts. */
  onWelcome?(welcome: Welcome): void;
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
  /** Why the run ended; empty if it ran to its end. */
  readonly reason: string;
  /** The error that ended the run, if one did. */
  readonly error: unknown;
}

/**
 * Joins an edge server and takes part in a run until it ends.
 *
 * If the connection is lost or the run is stopped, the head modules as they were after the last
 * step are returned with the error, so that nothing learnt is lost.
 *
 * @throws {HandshakeError} If the server refuses, or the run's codec is not known here.
 * @throws {ProtocolError} If the server's welcome is not valid.
 * @throws {CheckpointError} If the adapter does not fit the run.
 * @throws {TypeError} If an adapter is missing, or given where none is needed.
 */
export async function runUserDevice(options: UserDeviceOptions): Promise<UserDeviceResult> {
  const { engine, channel, name, capacity, data, timeoutMs = 120_000 } = options;
  const { signal, maxQueuedBytes, task = "train", adapter } = options;
  if ((adapter !== undefined) !== (task === "generate" && capacity > 0)) {
    await channel.close("nothing to generate with");
    throw new TypeError(
      `Cannot join as an adapter must be given in a run for generation by a device with heads, and only there: task is "${task}", capacity ${capacity}, the adapter is ${
        adapter === undefined ? "missing" : "given"
      }`,
    );
  }
  const peer = new Peer(channel, {
    timeoutMs: options.joinTimeoutMs ?? timeoutMs,
    signal,
    maxQueuedBytes,
  });
  peer.name = "the edge server";
  let welcome: Welcome;
  let modules: HeadModules | null = null;
  try {
    const learnt = adapter === undefined ? null : { range: adapterRange(adapter), lora: adapter.lora };
    await peer.send("hello", {
      meta: {
        protocol: PROTOCOL_VERSION,
        name,
        capacity,
        data: data !== undefined,
        fingerprint: data?.fingerprint ?? "",
        sharesLoss: data?.shareLoss ?? false,
        task,
        ...(learnt === null ? {} : { learnt }),
      },
    });
    welcome = readWelcome(await receiveWelcome(peer));
    peer.codec = findCodec(welcome.settings.codec, options.codecs);
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
      options.resume?.(modules);
    }
  } catch (error) {
    modules?.[Symbol.dispose]();
    const reason = error instanceof Error ? error.message : String(error);
    // The other side learns why this device does not take part.
    if (error instanceof HandshakeError || error instanceof CheckpointError) {
      await peer.send("refuse", { meta: { reason } }).catch(() => {});
    }
    await peer.close(reason.slice(0, 100));
    throw error;
  }
  peer.run = welcome.run;
  peer.timeoutMs = timeoutMs;
  options.onWelcome?.(welcome);
  const state = { steps: 0, reason: "" };
  let error: unknown = null;
  const lanes: Promise<void>[] = [];
  try {
    if (modules !== null) lanes.push(serveHeads(peer, engine, modules, welcome, state, options));
    if (data !== undefined) lanes.push(serveData(peer, engine, data, state));
    await Promise.all(lanes);
  } catch (cause) {
    error = cause;
    if (cause instanceof ProtocolError) peer.reject(cause);
  }
  await peer.close(error === null ? "" : "device stopped").catch(() => {});
  // The modules are the caller's from here on: no lane may use them any more.
  await Promise.allSettled(lanes);
  return { modules, welcome, steps: state.steps, ledger: peer.ledger, reason: state.reason, error };
}

/** Waits for the start of the run; returns what the server says of it. */
export async function receiveWelcome(peer: Peer): Promise<Readonly<Record<string, unknown>>> {
  const frame = await peer.next("control", "the start of the run");
  if (frame.kind === "end") {
    throw new HandshakeError(`Cannot join as the server ended the run: ${String(frame.meta.reason ?? "")}`);
  }
  peer.check(frame, "welcome", {});
  return frame.meta;
}

/** Progress of a device in a run. */
export interface RunState {
  steps: number;
  reason: string;
}

function endReason(frame: Frame): string {
  return String(frame.meta.reason ?? "");
}

/** Where a device is within a step. */
interface HeadStepState {
  readonly step: number;
  readonly mode: HeadMode;
  readonly mask: Uint8Array;
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
): Promise<void> {
  const { layers, hidden } = welcome.model;
  const { range, lora } = modules.options;
  const { headSize } = modules;
  const slice = lora.mode === "slice";
  const targets = lora.targets.length;
  const { overlap } = welcome.settings;
  let current: HeadStepState | null = null;

  const finishStep = async (at: HeadStepState) => {
    if (at.mode === "evaluate") return;
    const probe = at.mode === "probe";
    const statistics: HeadStatistics = probe
      ? { gradientNorm: await modules.gradientNorms() }
      : await modules.update(at.step, at.mask, welcome.statistics);
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
  };

  for (;;) {
    const frame = await peer.next("heads", "the next step");
    if (frame.kind === "end") {
      state.reason = endReason(frame);
      return;
    }
    if (frame.kind === "mask") {
      if (current !== null && !isDone(current)) {
        throw new ProtocolError(
          `Cannot begin step ${frame.step} as step ${current.step} must be done: it is not`,
        );
      }
      current = beginStep(peer, frame, layers, range.count);
      if (current.layers.length === 0) await finishStep(current);
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
        shapes: [slice ? [kept.length, rows, headSize] : [rows, hidden]],
      });
      const { shape, data } = tensors[0]!;
      const length = slice ? shape[1]! : shape[0]!;
      const x = slice
        ? engine.upload(data as Float32Array, kept.length * length, headSize, "input")
        : engine.upload(data as Float32Array, length, hidden, "input");
      const firstRow = current.rows.slice(0, microBatch).reduce<number>((sum, n) => sum + n!, 0);
      const deltas = modules.forward(layer, kept, x, {
        step,
        mode: current.mode,
        ownsInput: true,
        microBatch: { index: microBatch, firstRow },
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
      if (current.rows.length > 1) await engine.turn();
      continue;
    }
    if (frame.kind === "deltaGradient") {
      const { layers: own, forward } = current;
      const layer = own[own.length - 1 - current.backward[microBatch]!];
      if (layer === undefined || current.mode === "evaluate" || forward.some((n) => n < own.length)) {
        throw new ProtocolError(
          `Cannot go back in step ${step} as all its layers must have gone forward, in training: they have not`,
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
            shape: slice ? [kept.length, length, headSize] : [length, hidden],
            data: values!,
          }],
        });
      }
      if (later) {
        await engine.turn();
        modules.accumulate(layer);
        engine.flush();
      }
      current.backward[microBatch]!++;
      if (isDone(current)) await finishStep(current);
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

function beginStep(peer: Peer, frame: Frame, layers: number, count: number): HeadStepState {
  peer.check(frame, "mask", { shapes: [[layers, count]] });
  const { mode, lowest, rows = [null] } = frame.meta;
  const mask = frame.tensors[0]!.data as Uint8Array;
  const isLayer = typeof lowest === "number" && Number.isInteger(lowest) && lowest >= 0 && lowest <= layers;
  const isMode = mode === "train" || mode === "evaluate" || (mode === "probe" && !mask.includes(1));
  if (!isMode || mask.some((z) => z > 1) || !isLayer) {
    throw new ProtocolError(
      `Cannot begin step ${frame.step} as its mode must be "train", "evaluate" or, with nothing pruned, "probe", its mask 0 or 1 and its lowest layer at most ${layers}: they are not`,
    );
  }
  const isRows = Array.isArray(rows) && rows.length >= 1 && rows.length <= MAX_MICRO_BATCHES &&
    (frame.meta.rows === undefined || rows.every((n) => Number.isInteger(n) && n >= 1 && n < 1 << 24));
  if (!isRows) {
    throw new ProtocolError(
      `Cannot begin step ${frame.step} as it must have 1 to ${MAX_MICRO_BATCHES} micro-batches of at least one row: it has ${
        JSON.stringify(rows)?.slice(0, 80)
      }`,
    );
  }
  const kept: number[] = [];
  for (let l = 0; l < layers; l++) if (keptHeads(mask, count, l, 0, count).length > 0) kept.push(l);
  const none = rows.map(() => 0);
  return { step: frame.step, mode, mask, lowest, layers: kept, rows, forward: none, backward: [...none] };
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
export async function serveData(peer: Peer, engine: Engine, data: DataSide, state: RunState): Promise<void> {
  let step = 0;
  for (;;) {
    const next = data.next(step);
    if (next === null) {
      await data.generate?.(new RemoteSession(peer, data.ends, step));
      await peer.send("finished", { step });
      // The edge server ends the run for everyone; wait for its word.
      const frame = await peer.next("data", "the end of the run");
      if (frame.kind !== "end") {
        throw new ProtocolError(`Cannot end the run as "end" must come: it is "${frame.kind}"`);
      }
      return;
    }
    const { batch, mode } = next;
    const { hidden } = data.ends.shape;
    const embedding = embedTokens(data.ends, batch);
    const [values] = await engine.read([embedding]);
    embedding.dispose();
    await peer.send("embedding", {
      step,
      meta: { mode },
      tensors: [{ dtype: "f32", shape: [batch.batch, batch.length, hidden], data: values! }],
    });
    const rows = batch.batch * batch.length;
    const expected = { step, shapes: [[rows, hidden]] };
    let frame = await peer.next("data", `"hidden"`);
    // One probe may come before the step itself: its gradient is answered, nothing else happens.
    if (frame.kind === "hidden" && frame.meta.probe === true && mode === "train") {
      await answerProbe(peer, engine, data, batch, peer.check(frame, "hidden", expected));
      frame = await peer.next("data", `"hidden"`);
    }
    if (frame.kind === "end") {
      state.reason = endReason(frame);
      return;
    }
    const { tensors } = peer.check(frame, "hidden", expected);
    if (frame.meta.probe === true) {
      throw new ProtocolError(
        `Cannot answer the probe of step ${step} as there must be at most one, in training: there is another`,
      );
    }
    using h = engine.upload(tensors[0]!.data as Float32Array, rows, hidden, "h_L");
    const settings = mode === "train" ? data.loss : { labelSmoothing: 0 };
    const { losses, gradient } = modelLoss(data.ends, h, batch, settings, mode === "train");
    const results = await engine.read(gradient === null ? losses : [gradient, ...losses]);
    for (const tensor of losses) tensor.dispose();
    gradient?.dispose();
    if (gradient !== null) {
      await peer.send("hiddenGradient", {
        step,
        tensors: [{ dtype: "f32", shape: [rows, hidden], data: results.shift()! }],
      });
    }
    const loss = sumLosses(results);
    if (data.shareLoss) await peer.send("loss", { step, meta: { loss } });
    data.onLoss?.(step, mode, loss);
    if (mode === "train") step++;
  }
}

async function answerProbe(
  peer: Peer,
  engine: Engine,
  data: DataSide,
  batch: TokenBatch,
  frame: Frame,
): Promise<void> {
  const { shape, data: values } = frame.tensors[0]!;
  const [rows, hidden] = shape as [number, number];
  using h = engine.upload(values as Float32Array, rows, hidden, "h_L of a probe");
  const { losses, gradient } = modelLoss(data.ends, h, batch, data.loss, true);
  const [answer] = await engine.read([gradient!]);
  for (const tensor of [gradient!, ...losses]) tensor.dispose();
  await peer.send("hiddenGradient", { step: frame.step, tensors: [{ dtype: "f32", shape, data: answer! }] });
}
