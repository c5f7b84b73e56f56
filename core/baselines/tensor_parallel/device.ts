/**
 * A device of a tensor-parallel run: holds a share of the base model and the head modules of its
 * heads, and may be the data device.
 *
 * T tokens, d hidden size.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { ProtocolError } from "../../contracts/errors.ts";
import { HeadModules } from "../../lora/head_modules.ts";
import { findRunCodecs } from "../../protocol/run_codecs.ts";
import type { Frame, FrameOf } from "../../protocol/frame.ts";
import { Peer } from "../../protocol/peer.ts";
import type { Expectation } from "../../protocol/peer_options.ts";
import { splitShape } from "../../protocol/pass.ts";
import { DataDevice } from "../../session/data_device.ts";
import type { UserDeviceOptions, UserDeviceResult } from "../../session/user_device_options.ts";
import { receiveWelcome } from "../../session/welcome.ts";
import { leave, requireOrderlyEnd, type RunProgress, takeEnd } from "../../session/run_end.ts";
import { checkWait } from "../../session/wait_limits.ts";
import { ModelShard, type ShardStep } from "./rank.ts";
import { shardShapes, type Share } from "./shares.ts";
import { readTensorParallelWelcome, type TensorParallelWelcome } from "./welcome.ts";

/** Options of `runTensorParallelDevice`. */
export interface TensorParallelDeviceOptions extends
  Omit<
    UserDeviceOptions,
    "onWelcome" | "prepare" | "resume" | "onResume" | "onState" | "onBest" | "task" | "adapter"
  > {
  /** Bytes of memory that the device can give to its share. */
  readonly memory: number;
  /** Called once the run starts. */
  onWelcome?(welcome: TensorParallelWelcome): void;
}

/** What a device has at the end of a tensor-parallel run. */
export interface TensorParallelDeviceResult extends UserDeviceResult {
  /** What the server said. */
  readonly welcome: TensorParallelWelcome;
}

/**
 * Joins a tensor-parallel server and takes part in a run until it ends. As with `runUserDevice`, the
 * head modules are returned with the error if one ends the run.
 *
 * @throws {HandshakeError} If the server refuses; the message says so if it is for lack of memory.
 * @throws {ChannelClosedError} If the run ended before it began.
 * @throws {DeadlineError} If it did not begin in time.
 * @throws {ProtocolError} If the server's welcome is not valid.
 * @throws {RangeError} If a limit of waiting cannot be kept.
 */
export async function runTensorParallelDevice(
  options: TensorParallelDeviceOptions,
): Promise<TensorParallelDeviceResult> {
  const { engine, channel, name, capacity, memory, data, timeoutMs = 120_000 } = options;
  const { signal, id } = options;
  checkWait("timeoutMs", timeoutMs);
  const joinTimeoutMs = checkWait("joinTimeoutMs", options.joinTimeoutMs ?? timeoutMs);
  const peer = new Peer(channel, {
    timeoutMs: joinTimeoutMs,
    signal,
    maxQueuedBytes: options.maxQueuedBytes,
    remote: "server",
  });
  peer.name = "the edge server";
  let welcome: TensorParallelWelcome;
  try {
    await peer.send("hello", {
      meta: {
        system: "tensorParallel",
        name,
        ...(id !== undefined && { id }),
        capacity,
        memory,
        data: data !== undefined,
        fingerprint: data?.fingerprint ?? "",
        sharesLoss: data?.shareLoss ?? false,
        task: "train",
      },
    });
    welcome = readTensorParallelWelcome(await receiveWelcome(peer));
    peer.codecs = findRunCodecs(welcome.settings.codec, options.codecs);
  } catch (error) {
    await peer.close("", peer.isSilent || signal?.aborted ? { signal: AbortSignal.abort() } : {});
    throw error;
  }
  peer.run = welcome.run;
  peer.timeoutMs = timeoutMs;
  const { share, settings } = welcome;
  const modules = share === null ? null : new HeadModules(engine, {
    lora: settings.lora,
    optimizer: settings.optimizer,
    ...welcome.model,
    range: share.heads,
    seed: settings.seed,
    steps: settings.steps,
  });
  options.onWelcome?.(welcome);
  const state: RunProgress = { steps: 0, reason: "", ending: null, wasStopped: false };
  let error: unknown = null;
  const lanes: Promise<void>[] = [];
  try {
    if (modules !== null) lanes.push(serveShare({ peer, modules, welcome, share: share!, state }, options));
    if (data !== undefined) {
      const run = splitShape(welcome.model, settings, { sharesLoss: data.shareLoss ?? false });
      const common = { engine, data, run, state };
      lanes.push(new DataDevice({ ...common, start: 0, accumulate: 1, microBatches: 1 }).run(peer));
    }
    await Promise.all(lanes);
    requireOrderlyEnd(state);
  } catch (cause) {
    error = cause;
  }
  await leave(peer, error, signal);
  // The modules are the caller's from here on: no lane may use them any more.
  await Promise.allSettled(lanes);
  const { steps, reason, ending, wasStopped } = state;
  const saving = { count: 0, blockedMs: 0, writingMs: 0 }; // such runs are not resumed
  const { ledger } = peer;
  return { modules, welcome, steps, absences: {}, ledger, saving, reason, ending, wasStopped, error };
}

/** What a device takes part with. */
interface ShareOfDevice {
  readonly peer: Peer;
  readonly modules: HeadModules;
  readonly welcome: TensorParallelWelcome;
  readonly share: Share;
  readonly state: RunProgress;
}

/** Receives the share, then takes part in steps until the run ends. */
async function serveShare(
  { peer, modules, welcome, share, state }: ShareOfDevice,
  options: TensorParallelDeviceOptions,
): Promise<void> {
  const { engine } = options;
  const { layers, hidden } = welcome.model;
  using shard = new ModelShard(engine, welcome.epsilon);
  const shapes = shardShapes(welcome.model, share);
  for (let layer = 0; layer < layers; layer++) {
    const { tensors } = await peer.receive("shard", { layer, shapes });
    shard.addLayer(tensors.map((t) => t.data as Float32Array), shapes);
  }
  for (;;) {
    const next = await peer.next("heads", "the next step");
    if (next.kind === "end") return takeEnd(next, state);
    const frame = peer.check(next, "activation", { layer: 0, shapes: [[null, hidden]] });
    const { mode, batch, length } = readStep(frame);
    using part = shard.begin(modules, { step: frame.step, mode, batch, length, root: false });
    await serveStep({ peer, engine, part, blocks: 2 * layers, rows: batch * length, hidden }, frame, mode);
    if (mode !== "train") continue;
    state.steps = frame.step + 1;
    options.onStep?.(frame.step, { mask: new Uint8Array(0), totalBytes: peer.ledger.totalBytes });
  }
}

/** Reads the first frame of a step. */
function readStep({ step, meta: { mode, batch = 0, length = 0 }, tensors }: FrameOf<"activation">) {
  const rows = tensors[0]!.shape[0]!;
  if (mode === undefined || batch * length !== rows) {
    throw new ProtocolError(
      `Cannot begin step ${step} as its mode and size must be given, and its size be that of its input, ${rows}: they are ${mode}, ${batch} x ${length}`,
    );
  }
  return { mode, batch, length };
}

interface StepOfDevice {
  readonly peer: Peer;
  readonly engine: Engine;
  readonly part: ShardStep;
  /** 2 L */
  readonly blocks: number;
  /** T */
  readonly rows: number;
  /** d */
  readonly hidden: number;
}

/** All blocks forward and, in training, back; then the update. */
async function serveStep(
  at: StepOfDevice,
  first: FrameOf<"activation">,
  mode: "train" | "evaluate",
): Promise<void> {
  const { peer, engine, part, blocks, rows, hidden } = at;
  const { step } = first;
  const shape = [rows, hidden];
  const receive = (kind: "activation" | "activationGradient", layer: number) =>
    peer.receive(kind, { step, layer, shapes: [shape] } satisfies Expectation);
  const upload = (frame: Pick<Frame, "kind" | "tensors">) =>
    engine.upload(frame.tensors[0]!.data as Float32Array, rows, hidden, frame.kind);
  const send = (kind: "partial" | "partialGradient", layer: number, data: Float32Array) =>
    peer.send(kind, { step, layer, tensors: [{ dtype: "f32", shape, data }] });

  for (let block = 0; block < blocks; block++) {
    const h = upload(block === 0 ? first : await receive("activation", block));
    const [values] = await engine.read([await part.forward(block, h)]);
    await send("partial", block, values!);
  }
  if (mode === "evaluate") return;
  for (let block = blocks - 1; block >= 0; block--) {
    using dh = await part.backward(upload(await receive("activationGradient", block)));
    if (dh === null) break; // nothing is trained below block 0
    const [values] = await engine.read([dh]);
    await send("partialGradient", block, values!);
  }
  await part.update();
}
