/**
 * Whole runs in which links are cut at chosen messages, for tests of what becomes of the others.
 *
 * @module
 */

import {
  type Channel,
  decodeFrame,
  EdgeServer,
  type EdgeServerEvent,
  type EdgeServerOptions,
  type Frame,
  type HeadModulesState,
  runUserDevice,
  type StepRecord,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "@edgetuner/core";
import { inProcessTransport } from "@edgetuner/transport";
import { admitAll, dataSide, eventOf, serverOptions, type SessionOptions } from "./_session.ts";
import type { TinyBase } from "../support/tiny_model.ts";

/** A frame of a device's channel. */
export interface PassedFrame {
  /** Seen from the device. */
  readonly direction: "sent" | "received";
  readonly frame: Frame;
  /** Which of the device's links it is, from 0. */
  readonly link: number;
  /** Number of the frame on this channel, both directions together, from 0. */
  readonly index: number;
}

/** What becomes of a frame: nothing, the link is cut before it arrives, it never arrives, or another frame takes its place. */
export type Fault = (passed: PassedFrame) => "cut" | "hold" | Uint8Array<ArrayBuffer> | undefined;

/** A channel with faults. */
export function faulty(
  channel: Channel,
  fault: (passed: Omit<PassedFrame, "link">) => ReturnType<Fault>,
): Channel {
  let index = 0;
  const pass = async (direction: "sent" | "received", bytes: Uint8Array<ArrayBuffer>) => {
    const what = fault({ direction, frame: decodeFrame(bytes), index: index++ });
    if (what === "hold") {
      await channel.closed;
      return bytes;
    }
    if (what !== "cut") return what ?? bytes;
    await channel.close("cut");
    return null;
  };
  return {
    peer: channel.peer,
    closed: channel.closed,
    async send(bytes, options) {
      await channel.send(await pass("sent", bytes) ?? bytes, options);
    },
    async receive(options) {
      const bytes = await channel.receive(options);
      return bytes === null ? null : await pass("received", bytes);
    },
    close: (reason, options) => channel.close(reason, options),
    [Symbol.asyncDispose]: () => channel.close(),
  };
}

/** What a run with faults is made of. */
export interface LossyOptions
  extends Pick<SessionOptions, "settings" | "steps" | "capacities" | "pruner" | "modes" | "dataApart"> {
  /** Faults of each device's link, from when the run begins. */
  readonly faults?: Readonly<Record<number, Fault>>;
  /** More of the edge server. */
  readonly server?: Partial<EdgeServerOptions>;
  /** More of each device. */
  readonly device?: (device: number) => Partial<UserDeviceOptions>;
  readonly onEvent?: (event: EdgeServerEvent) => void;
  /** True if devices come back when their links are cut. */
  readonly comesBack?: boolean;
}

/** What came of it. */
export interface LossyResult {
  /** How the edge server ended; `null` without a fault. */
  readonly error: Error | null;
  readonly records: readonly StepRecord[];
  readonly events: readonly EdgeServerEvent[];
  readonly devices: readonly UserDeviceResult[];
  /** What each device with heads has learnt, in order of joining; `null` for one without. */
  readonly states: readonly (HeadModulesState | null)[];
}

/** Runs it to the end; nothing is left on the GPU. The data device is device 0, or the last one if `dataApart`. */
export async function runLossy(model: TinyBase, options: LossyOptions): Promise<LossyResult> {
  const { engine } = model;
  const { settings, steps, capacities, pruner, faults = {}, dataApart = false } = options;
  const server = new EdgeServer(serverOptions(model, settings, {
    devices: capacities.length,
    onLoss: "prune",
    ...(pruner && { pruner }),
    ...options.server,
  }));
  const records: StepRecord[] = [];
  const events: EdgeServerEvent[] = [];
  server.subscribe((event) => {
    events.push(event);
    if (event.type === "step") records.push(event.record);
    options.onEvent?.(event);
  });
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const running = server.start().then(() => null, (error: Error) => error);
  const all = dataApart ? [...capacities, 0] : capacities;
  const data = dataSide(model, steps, { shareLoss: true, ...(options.modes && { modes: options.modes }) });
  const results: Promise<UserDeviceResult>[] = [];
  for (const [i, capacity] of all.entries()) {
    const fault = faults[i];
    let links = 0;
    const connect = async () => {
      const channel = await transport.connect();
      const link = links++;
      return fault === undefined ? channel : faulty(channel, (passed) => fault({ ...passed, link }));
    };
    const name = `device ${i}`;
    const joined = eventOf(server, (e) => e.type === "joined" && e.device.name === name);
    const result = runUserDevice({
      ...{ engine, name, capacity, timeoutMs: 20_000 },
      channel: await connect(),
      ...(options.comesBack === true && { id: `${i}`.repeat(16), reconnect: () => connect() }),
      data: i === (dataApart ? capacities.length : 0) ? data : undefined,
      ...options.device?.(i),
    });
    result.catch(() => {}); // whoever awaits it gets the error
    await Promise.race([joined, result]);
    results.push(result);
  }
  const error = await running;
  const devices = await Promise.all(results);
  await listener[Symbol.asyncDispose]();
  await admitting;
  const states = await Promise.all(devices.map((d) => d.modules?.state() ?? null));
  for (const { modules } of devices) modules?.[Symbol.dispose]();
  return { error, records, events, devices, states };
}
