/**
 * Whole runs for tests: an edge server and its devices over a transport of this machine.
 *
 * @module
 */

import {
  type Adapter,
  type Channel,
  type DataSide,
  decodeFrame,
  EdgeServer,
  type EdgeServerEvent,
  type EdgeServerOptions,
  findRunCodecs,
  type Frame,
  type FrameKind,
  type HeadModules,
  type HeadModulesState,
  type LedgerEntry,
  type Listener,
  modeSize,
  type Pruner,
  type RunServer,
  type RunSettings,
  type RunState,
  type RunStateSource,
  runUserDevice,
  type StepMode,
  type StepRecord,
  stepTraffic,
  type TokenBatch,
  type Transport,
  type UserDeviceOptions,
  type UserDeviceResult,
  type WireCodec,
} from "@edgetuner/core";
import { noPruner } from "@edgetuner/plugins";
import {
  httpListener,
  httpTransport,
  inProcessTransport,
  webSocketListener,
  webSocketTransport,
} from "@edgetuner/transport";
import { BATCH, flatten, LOSS, sideBySide, type TinyBase } from "../support/tiny_model.ts";

/** Transports that runs are tested over. */
export type TransportName = "in-process" | "websocket" | "http";

/** A transport with its listening side. */
export interface Link extends AsyncDisposable {
  readonly transport: Transport;
  readonly listener: Listener;
}

/** Opens a transport; sockets are on the loopback interface. */
export function openLink(name: TransportName): Link {
  if (name === "in-process") {
    const { transport, listener } = inProcessTransport();
    return { transport, listener, [Symbol.asyncDispose]: () => listener[Symbol.asyncDispose]() };
  }
  const listener = name === "websocket" ? webSocketListener() : httpListener();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    (request) => listener.handle(request),
  );
  const url = `http://127.0.0.1:${server.addr.port}/frames`;
  return {
    transport: name === "websocket" ? webSocketTransport({ url }) : httpTransport({ url }),
    listener,
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      await server.shutdown();
    },
  };
}

/** Lets every peer of a listener join, until the listener is closed. */
export async function admitAll(listener: Listener, server: RunServer): Promise<void> {
  const joining: Promise<void>[] = [];
  for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
    joining.push(server.join(channel));
  }
  await Promise.all(joining);
}

/** A frame that passed, as its device sees it. */
export interface Passed {
  readonly device: number;
  readonly direction: "sent" | "received";
  readonly frame: Frame;
}

/** Shows every frame of a device's channel to a listener. */
export function tapped(channel: Channel, device: number, onFrame: (passed: Passed) => void): Channel {
  return {
    peer: channel.peer,
    closed: channel.closed,
    send(bytes, options) {
      onFrame({ device, direction: "sent", frame: decodeFrame(bytes) });
      return channel.send(bytes, options);
    },
    async receive(options) {
      const bytes = await channel.receive(options);
      if (bytes !== null) onFrame({ device, direction: "received", frame: decodeFrame(bytes) });
      return bytes;
    },
    close: (reason) => channel.close(reason),
    [Symbol.asyncDispose]: () => channel.close(),
  };
}

/** The data side of the test model: the same batch in every step, `steps` training steps. */
export function dataSide(
  model: TinyBase,
  steps: number,
  options: {
    readonly shareLoss?: boolean;
    readonly modes?: readonly StepMode[];
    readonly fingerprint?: string;
    readonly batch?: TokenBatch | ((step: number) => TokenBatch);
    readonly isBest?: (step: number) => boolean;
  } = {},
): DataSide & { readonly losses: number[] } {
  const losses: number[] = [];
  let calls = 0;
  const { modes, shareLoss = false, fingerprint = "tiny", batch = BATCH, isBest } = options;
  const batchOf = (step: number) => typeof batch === "function" ? batch(step) : batch;
  return {
    ends: model.ends,
    loss: LOSS,
    fingerprint,
    shareLoss,
    losses,
    next(step) {
      if (modes === undefined) return step < steps ? { batch: batchOf(step), mode: "train" } : null;
      const mode = modes[calls++];
      return mode === undefined ? null : { batch: batchOf(step), mode };
    },
    ...(isBest === undefined ? {} : { isBest }),
    onLoss: (_step, _mode, loss) => void losses.push(loss),
  };
}

/** Options of an edge server for the test model. */
export function serverOptions(
  model: TinyBase,
  settings: RunSettings,
  options: Partial<EdgeServerOptions> = {},
): EdgeServerOptions {
  return {
    engine: model.engine,
    base: model.layers,
    fingerprint: "tiny",
    settings,
    pruner: noPruner() as Pruner,
    devices: 1,
    timeoutMs: 20_000,
    joinTimeoutMs: 20_000,
    // Most tests say how a run ends with a device that is lost; others how it goes on.
    onLoss: "stop",
    ...options,
  };
}

/** Resolves once an event comes that passes the test. */
export function eventOf(
  server: RunServer,
  test: (event: EdgeServerEvent) => boolean,
): Promise<EdgeServerEvent> {
  return new Promise((resolve) => {
    const end = server.subscribe((event) => {
      if (!test(event)) return;
      end();
      resolve(event);
    });
  });
}

/** Connects a device and waits until the server has taken it in, so that the order of devices is known. */
export async function joinDevice(
  link: Link,
  server: RunServer,
  options: Omit<UserDeviceOptions, "channel">,
  wrap: (channel: Channel) => Channel = (channel) => channel,
): Promise<{ readonly result: Promise<UserDeviceResult>; readonly channel: Channel }> {
  const channel = wrap(await link.transport.connect());
  const joined = eventOf(server, (e) => e.type === "joined" && e.device.name === options.name);
  const result = runUserDevice({ timeoutMs: 20_000, ...options, channel });
  result.catch(() => {}); // whoever awaits it gets the error
  await Promise.race([joined, result]);
  return { result, channel };
}

/** What a run is made of. */
export interface SessionOptions {
  readonly settings: RunSettings;
  readonly steps: number;
  readonly capacities: readonly number[];
  /** Names and ids of the devices, in order of joining. @default {device 0, device 1, ...} */
  readonly identities?: readonly { readonly name: string; readonly id?: string }[];
  /** Limit of server and devices. @default {20000} */
  readonly timeoutMs?: number;
  readonly transport?: TransportName;
  // deno-lint-ignore no-explicit-any -- a pruner of any state
  readonly pruner?: Pruner<any>;
  readonly shareLoss?: boolean;
  /** What devices with heads begin with. */
  readonly adapter?: Adapter;
  /** A device of its own for the data, without heads. */
  readonly dataApart?: boolean;
  readonly modes?: readonly StepMode[];
  /** The batch of every step. */
  readonly batch?: TokenBatch | ((step: number) => TokenBatch);
  /** What the data device says of the head modules before each batch. */
  readonly isBest?: (step: number) => boolean;
  /** States to go on from: the server's and each device's. */
  readonly resume?: { readonly server: RunStateSource; readonly devices: readonly RunStateSource[] };
  /** Called with the server's states. */
  readonly onServerState?: (state: RunState) => void | Promise<void>;
  /** Called with each device's states. */
  readonly onDeviceState?: (device: number, state: RunState) => void | Promise<void>;
  /** Called with each device's best modules. */
  readonly onBest?: (device: number, step: number, modules: HeadModules) => void | Promise<void>;
  /** Put around a device's channel. */
  readonly wrap?: (channel: Channel, device: number) => Channel;
  /** Codecs of your own, known to all. */
  readonly codecs?: readonly WireCodec[];
  readonly onFrame?: (passed: Passed) => void;
  /** Called after each training step of each device. */
  readonly onStep?: (step: number) => void;
  readonly onEvent?: (event: EdgeServerEvent, server: EdgeServer) => void;
}

/** What came of a run. */
export interface SessionResult {
  readonly server: EdgeServer;
  readonly losses: readonly number[];
  readonly records: readonly StepRecord[];
  readonly weights: Float32Array;
  /** Weights, moments and counts of each device with heads, in order of the heads. */
  readonly states: readonly HeadModulesState[];
  readonly traffic: readonly LedgerEntry[];
  readonly devices: readonly UserDeviceResult[];
  /** Heads of each device. */
  readonly counts: readonly number[];
}

/** Runs edge server and devices to the end; all modules are disposed. */
export async function runSession(model: TinyBase, options: SessionOptions): Promise<SessionResult> {
  const { engine } = model;
  const { settings, steps, capacities, pruner = noPruner(), codecs, onFrame, onEvent } = options;
  const server = new EdgeServer(
    serverOptions(model, settings, {
      pruner: pruner as Pruner,
      devices: capacities.length,
      codecs,
      ...(options.timeoutMs !== undefined && { timeoutMs: options.timeoutMs }),
      resume: options.resume?.server,
      onState: (state) => options.onServerState?.(state),
    }),
  );
  const records: StepRecord[] = [];
  server.subscribe((event) => {
    if (event.type === "step") records.push(event.record);
    onEvent?.(event, server);
  });
  const data = dataSide(model, steps, options);
  await using link = openLink(options.transport ?? "in-process");
  const admitting = admitAll(link.listener, server);
  const running = server.start();
  const results: Promise<UserDeviceResult>[] = [];
  const join = async (capacity: number, withData: boolean) => {
    const device = results.length;
    const { result } = await joinDevice(
      link,
      server,
      {
        engine,
        name: `device ${device}`,
        ...options.identities?.[device],
        ...(options.timeoutMs !== undefined && { timeoutMs: options.timeoutMs, joinTimeoutMs: 20_000 }),
        capacity,
        data: withData ? data : undefined,
        codecs,
        onStep: (step) => options.onStep?.(step),
        ...(options.adapter !== undefined && capacity > 0 && { adapter: options.adapter }),
        resume: options.resume?.devices[device],
        onState: (state) => options.onDeviceState?.(device, state),
        onBest: (step, modules) => options.onBest?.(device, step, modules),
      },
      (channel) => {
        const inner = options.wrap?.(channel, device) ?? channel;
        return onFrame === undefined ? inner : tapped(inner, device, onFrame);
      },
    );
    results.push(result);
  };
  for (const [i, capacity] of capacities.entries()) await join(capacity, i === 0 && !options.dataApart);
  if (options.dataApart) await join(0, true);
  try {
    await running;
  } catch (error) {
    // What the devices had learnt is the caller's: here, nobody's.
    for (const result of await Promise.allSettled(results)) {
      if (result.status === "fulfilled") result.value.modules?.[Symbol.dispose]();
    }
    throw error;
  }
  const devices = await Promise.all(results);
  await link.listener[Symbol.asyncDispose]();
  await admitting;
  for (const { error } of devices) if (error !== null) throw error;
  const owners = devices.filter((d) => d.modules !== null)
    .sort((a, b) => a.welcome.range!.first - b.welcome.range!.first);
  const weights = flatten(sideBySide(await Promise.all(owners.map((d) => d.modules!.weights()))));
  const states = await Promise.all(owners.map((d) => d.modules!.state()));
  for (const { modules } of owners) modules![Symbol.dispose]();
  return {
    server,
    losses: data.losses,
    records,
    weights,
    states,
    traffic: server.traffic(),
    devices,
    counts: owners.map((d) => d.welcome.range!.count),
  };
}

/** Tensor bytes of a ledger by kind, kinds without any left out. */
export function tensorBytesByKind(entries: readonly LedgerEntry[]): Map<FrameKind, number> {
  const bytes = new Map<FrameKind, number>();
  for (const { kind, tensorBytes } of entries) {
    if (tensorBytes > 0) bytes.set(kind, (bytes.get(kind) ?? 0) + tensorBytes);
  }
  return bytes;
}

/** What METHOD's formula says for all steps of a run of the test model. */
export function expectedBytesByKind(
  records: readonly StepRecord[],
  settings: RunSettings,
  counts: readonly number[],
  statistics: number,
  codecs: readonly WireCodec[] = [],
): Map<FrameKind, number> {
  const bytes = new Map<FrameKind, number>();
  for (const { tokens, batch, mask, embeddingRows } of records) {
    const step = stepTraffic({
      ...modeSize(settings.lora, { heads: 4, hidden: 48 }),
      layers: 3,
      tokens,
      mode: settings.lora.mode,
      headsPerDevice: counts,
      statistics,
      mask,
      batch,
      embeddingRows,
      microBatches: settings.microBatches ?? 1,
      accumulate: settings.accumulate ?? 1,
      clip: (settings.clipNorm ?? null) !== null,
      codec: findRunCodecs(settings.codec ?? "f32", codecs),
    });
    for (const [kind, amount] of step) if (amount > 0) bytes.set(kind, (bytes.get(kind) ?? 0) + amount);
  }
  return bytes;
}

/** A pruner that applies given masks in turn, over and over. */
export function scriptedPruner(masks: readonly Uint8Array[], needs: Pruner["needs"] = []): Pruner {
  return {
    name: "scripted",
    needs,
    init: () => null,
    decide: ({ step }) => [{ mask: masks[step % masks.length]! }, null],
  };
}

/** A head mask from a text such as "0100 1111 0000". */
export function maskOf(text: string): Uint8Array {
  return Uint8Array.from(text.replaceAll(" ", ""), Number);
}
