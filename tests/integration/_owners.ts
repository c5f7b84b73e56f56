/**
 * Whole runs on several people's data, for tests.
 *
 * @module
 */

import {
  type Channel,
  type DataSide,
  type DataTurn,
  EdgeServer,
  type EdgeServerEvent,
  type EdgeServerOptions,
  type HeadModulesState,
  type LedgerEntry,
  type RunSettings,
  runUserDevice,
  type StepMode,
  type StepRecord,
  type TokenBatch,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "@edgetuner/core";
import { inProcessTransport } from "@edgetuner/transport";
import { batchOf, LOSS, type TinyBase, tinySettings } from "../support/tiny_model.ts";
import { type Fault, faulty } from "./_lossy.ts";
import { admitAll, eventOf, serverOptions } from "./_session.ts";

/** An owner of data. */
export interface TestOwner {
  readonly name: string;
  /** gamma; 0 without heads. @default {0} */
  readonly capacity?: number;
  /** The batch of a position in training; `null` after the last. */
  train(position: number): TokenBatch | null;
  /** Validation data. @default {[]} */
  readonly valid?: readonly TokenBatch[];
  readonly examples?: number;
  readonly shareLoss?: boolean;
  readonly sharesValidation?: boolean;
  /** Joins when the run has so many training steps. @default {before the start} */
  readonly joinsAt?: number;
}

/** Settings of a run of owners, in the mode `slice`. */
export function settingsOf(steps: number, more: Partial<RunSettings> = {}): RunSettings {
  return { ...tinySettings("slice", steps), ...more };
}

/** Batches of two owners: of different sizes. */
export const BATCHES = {
  attic: (position: number) => batchOf(2 + position % 2),
  barn: (position: number) => batchOf(3 + position % 3),
} satisfies Readonly<Record<string, (position: number) => TokenBatch>>;

/** What an owner saw. */
export interface SeenLoss {
  readonly step: number;
  readonly mode: StepMode;
  readonly loss: number;
}

/** The data side of an owner. */
export function ownerSide(model: TinyBase, owner: TestOwner): DataSide & { readonly seen: SeenLoss[] } {
  const { valid = [], examples = 1, shareLoss = true, sharesValidation } = owner;
  const seen: SeenLoss[] = [];
  return {
    ...{ ends: model.ends, loss: LOSS, fingerprint: "tiny", shareLoss, examples, seen },
    ...(sharesValidation !== undefined && { sharesValidation }),
    next: () => null,
    turn: ({ mode, position }: DataTurn) =>
      mode === "train" ? owner.train(position) : valid[position] ?? null,
    onLoss: (step, mode, loss) => void seen.push({ step, mode, loss }),
  };
}

/** What a run of owners is made of. */
export interface OwnersOptions {
  readonly settings: RunSettings;
  readonly owners: readonly TestOwner[];
  /** Capacities of devices with heads and without data. @default {[]} */
  readonly capacities?: readonly number[];
  readonly server?: Partial<EdgeServerOptions>;
  /** Faults of links, by the names of devices. */
  readonly faults?: Readonly<Record<string, Fault>>;
  /** True if devices come back when their links are cut. */
  readonly comesBack?: boolean;
  readonly onEvent?: (event: EdgeServerEvent, server: EdgeServer) => void;
  /** More of each device, by its name. */
  readonly device?: (name: string) => Partial<UserDeviceOptions>;
}

/** What came of it. */
export interface OwnersResult {
  readonly error: Error | null;
  readonly records: readonly StepRecord[];
  readonly events: readonly EdgeServerEvent[];
  readonly devices: readonly UserDeviceResult[];
  /** What each device with heads has learnt, in order of its heads. */
  readonly states: readonly HeadModulesState[];
  readonly seen: readonly (readonly SeenLoss[])[];
  readonly traffic: readonly LedgerEntry[];
}

/** Whose data the training steps were of. */
export function turnsOf(records: readonly StepRecord[]): string[] {
  return records.filter((r) => r.mode === "train").map((r) => r.owners!.join("+"));
}

/** Runs it to the end; nothing is left on the GPU. Owners join first, in order. */
export async function runOwners(model: TinyBase, options: OwnersOptions): Promise<OwnersResult> {
  const { settings, owners, capacities = [], comesBack = false } = options;
  const { engine } = model;
  const early = owners.filter(({ joinsAt }) => joinsAt === undefined);
  const withHeads = early.filter(({ capacity = 0 }) => capacity > 0).length + capacities.length;
  const sharing = { devices: early.length, ...options.server?.sharing };
  const server = new EdgeServer(
    serverOptions(model, settings, { devices: withHeads, onLoss: "prune", ...options.server, sharing }),
  );
  const records: StepRecord[] = [];
  const events: EdgeServerEvent[] = [];
  server.subscribe((event) => {
    events.push(event);
    if (event.type === "step") records.push(event.record);
    options.onEvent?.(event, server);
  });
  const { transport, listener } = inProcessTransport();
  const admitting = admitAll(listener, server);
  const running = server.start().then(() => null, (error: Error) => error);
  const sides = owners.map((owner) => ownerSide(model, owner));
  const results: Promise<UserDeviceResult>[] = [];
  const join = async (name: string, capacity: number, owner: number | null) => {
    let links = 0;
    const fault = options.faults?.[name];
    const connect = async (): Promise<Channel> => {
      const channel = await transport.connect();
      const link = links++;
      return fault === undefined ? channel : faulty(channel, (passed) => fault({ ...passed, link }));
    };
    const joined = eventOf(server, (e) => e.type === "joined" && e.device.name === name);
    const result = runUserDevice({
      ...{ engine, name, capacity, timeoutMs: 20_000, channel: await connect(), id: name.repeat(8) },
      ...(comesBack && { reconnect: () => connect() }),
      ...(owner !== null && { data: sides[owner]! }),
      ...options.device?.(name),
    });
    result.catch(() => {});
    await Promise.race([joined, result]);
    results.push(result);
  };
  for (const [i, { name, capacity = 0, joinsAt }] of owners.entries()) {
    if (joinsAt === undefined) await join(name, capacity, i);
  }
  for (const [i, capacity] of capacities.entries()) await join(`h${i}`, capacity, null);
  const late = owners.map(async ({ name, capacity = 0, joinsAt }, i) => {
    if (joinsAt === undefined) return;
    await eventOf(server, (e) => e.type === "step" && e.record.step + 1 === joinsAt);
    server.pause();
    await join(name, capacity, i);
    server.resume();
  });
  const error = await running;
  await Promise.all(late);
  const devices = await Promise.all(results);
  await listener[Symbol.asyncDispose]();
  await admitting;
  const heads = devices.filter((d) => d.modules !== null)
    .sort((a, b) => a.welcome.range!.first - b.welcome.range!.first);
  const states = await Promise.all(heads.map((d) => d.modules!.state()));
  for (const { modules } of heads) modules![Symbol.dispose]();
  const seen = sides.map((side) => side.seen);
  return { error, records, events, devices, states, seen, traffic: server.traffic() };
}
