/**
 * Which devices may join a run.
 *
 * @module
 */

import type { RunClock } from "../contracts/clock.ts";
import { ChannelClosedError, DeadlineError, HandshakeError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { RunSettings } from "../train/run_settings.ts";
import { isSame, savedWithHeads, textOf } from "./_identity.ts";
import type { SavedDevice } from "./run_state.ts";
import type { RunStatus } from "./run_events.ts";
import { raceTimeout } from "./_race_timeout.ts";
import type { RunMember, RunSystem } from "./run_member.ts";

/** What a run asks of a device that wants to join. */
export interface Admission {
  /** State of the run. */
  readonly status: RunStatus;
  /** How the model is divided. */
  readonly system: RunSystem;
  /** What the run is for. */
  readonly task: Required<RunSettings>["task"];
  /** Fingerprint of the model. */
  readonly fingerprint: string;
  /** Devices with heads that the run has. */
  readonly devices: number;
  /** Devices that have joined. */
  readonly members: readonly RunMember[];
  /** The run that goes on; `null` in a new one. */
  readonly resumed: string | null;
  /** Devices of the run that goes on. */
  readonly saved: readonly SavedDevice[];
  /** Data devices that may take part; with several they may join while it runs. */
  readonly mostDataDevices: number;
  /** Steps after which heads of a device that is away are free; `undefined` if they never are. */
  readonly adoptAfter: number | undefined;
}

/** The devices that have heads. */
export function withHeads(members: readonly RunMember[]): RunMember[] {
  return members.filter((m) => m.device.capacity > 0);
}

/** Devices with heads by capacity, then by name and id: they get the same heads in whatever order they join. */
export function headsInOrder(members: readonly RunMember[]): RunMember[] {
  const order = (a: string, b: string) => a < b ? -1 : a > b ? 1 : 0;
  return withHeads(members).sort(({ hello: a }, { hello: b }) =>
    b.capacity - a.capacity || order(a.name, b.name) || order(a.id ?? "", b.id ?? "")
  );
}

/** What a run needs to begin. */
interface Needed {
  /** Devices with heads. */
  readonly devices: number;
  /** Devices with data. */
  readonly owners: number;
  /** Devices of the run that goes on. */
  readonly saved: readonly SavedDevice[];
}

/** Owners without heads that took part when the state was saved: with another set the turns would be others. */
function missingOwners(members: readonly RunMember[], saved: readonly SavedDevice[]): SavedDevice[] {
  return saved.filter((device) =>
    device.range === null && device.trained === undefined && !members.some((m) => isSame(m.hello, device))
  );
}

/** True once all devices are there that a run cannot begin without. */
function isComplete(members: readonly RunMember[], { devices, owners, saved }: Needed): boolean {
  return withHeads(members).length === devices &&
    members.filter((m) => m.device.data).length >= owners && missingOwners(members, saved).length === 0;
}

/** Why a run cannot start: who has joined within the limit. */
function missingText(
  members: readonly RunMember[],
  { devices, owners, saved, limitMs }: Needed & { readonly limitMs: number },
): string {
  const withData = members.filter((m) => m.device.data);
  const heads = `${withHeads(members).length} joined`;
  const missing = missingOwners(members, saved).map(textOf).join(", ");
  const others = missing === "" ? "" : `; ${missing} of the run that goes on must too`;
  if (owners > 1) {
    const names = withData.map((m) => `"${m.device.name}"`).join(", ") || "none";
    return `Cannot start the run as ${devices} devices with heads and ${owners} with data must join within ${limitMs} ms: ${heads}, with data ${names}${others}`;
  }
  const joined = `${heads}, ${withData.length > 0 ? "with" : "without"} a data device`;
  return `Cannot start the run as ${devices} devices with heads and a data device must join within ${limitMs} ms: ${joined}${others}`;
}

/**
 * Waits until all devices are there that a run cannot begin without, or the run is to end.
 *
 * @param members Those that have joined, as they come and go.
 * @throws {DeadlineError} If it takes too long.
 */
export async function waitForDevices(
  members: readonly RunMember[],
  { limitMs, clock, changed, isOver, ...needed }: Needed & {
    readonly limitMs: number;
    readonly clock: RunClock;
    /** Resolves when somebody joins or leaves. */
    changed(): Promise<void>;
    /** True if nobody waits any more. */
    isOver(): boolean;
  },
): Promise<void> {
  const until = clock.now() + limitMs;
  while (!isComplete(members, needed) && !isOver()) {
    const left = until - clock.now();
    if (left <= 0) throw new DeadlineError(missingText(members, { ...needed, limitMs }));
    await raceTimeout(changed(), left, clock);
  }
}

/**
 * Checks that nobody has left a run that is paused.
 *
 * @param mayMiss True for a device that the run can do without.
 * @throws {ChannelClosedError} If one has.
 */
export function requireNoneLost(
  members: readonly RunMember[],
  mayMiss: (member: RunMember) => boolean,
): void {
  const lost = members.find((m) => !m.device.connected && !mayMiss(m));
  if (lost === undefined) return;
  throw new ChannelClosedError(
    `Cannot go on as ${lost.peer.name} must stay in the run: it left while the run was paused`,
  );
}

/**
 * Checks that a device may join.
 *
 * @param hello What it said of itself.
 * @param run The run that it wants to join.
 * @throws {HandshakeError} If it may not.
 */
export function requireAdmissible(hello: MetaOf<"hello">, run: Admission): void {
  const { name, capacity, data, fingerprint, system = "split", task = "train" } = hello;
  const isOver = run.status === "ended" || run.status === "failed";
  // Of several data devices one without heads may come at any time.
  const isFree = run.mostDataDevices > 1 && data && capacity === 0;
  if (run.status !== "waiting" && (isOver || !isFree)) {
    throw new HandshakeError(lateText(hello, run));
  }
  if (capacity === 0 && !data) {
    throw new HandshakeError(
      `Cannot admit "${name}" as its capacity must be positive, or 0 for a data device without heads: current value is ${capacity}`,
    );
  }
  if (system !== run.system) {
    throw new HandshakeError(
      `Cannot admit "${name}" as it must be made for the run's system "${run.system}": current value is "${system}"`,
    );
  }
  if (task !== run.task) {
    throw new HandshakeError(
      `Cannot admit "${name}" as it must take part in what the run is for, "${run.task}": current value is "${task}"`,
    );
  }
  if (data) {
    requireDataPlace(name, run);
  }
  // A device without data has no model, but may bring an adapter that was learnt on one.
  if (fingerprint !== run.fingerprint && (data || fingerprint !== "")) {
    throw new HandshakeError(
      `Cannot admit "${name}" as its ${
        data ? "model" : "adapter's base model"
      } must be the server's (fingerprint ${run.fingerprint.slice(0, 12)}): its fingerprint is ${
        fingerprint.slice(0, 12)
      }`,
    );
  }
  const namesake = run.members.find((m) => isSame(m.hello, hello));
  if (namesake !== undefined) {
    throw new HandshakeError(
      `Cannot admit ${textOf(hello)} as devices of one name must have ids that differ: ${
        textOf(namesake.hello)
      } has joined`,
    );
  }
  const isNew = isFree && hello.states === undefined;
  if (!isNew) requireRunStates(name, { brought: hello.states?.run ?? null, wanted: run.resumed });
  if (capacity > 0) requireSaved(hello, savedWithHeads(run.saved));
  if (capacity > 0 && withHeads(run.members).length >= run.devices) {
    throw new HandshakeError(
      `Cannot admit "${name}" as the run has ${run.devices} devices with heads: all have joined`,
    );
  }
}

/** Why a device that joins late cannot take part. */
function lateText({ data }: MetaOf<"hello">, { status, adoptAfter, mostDataDevices }: Admission): string {
  const isOver = status === "ended" || status === "failed";
  if (!isOver && adoptAfter !== undefined && (!data || mostDataDevices > 1)) {
    return `Cannot admit the device as a late one must find heads of a device that left, or has been away for ${adoptAfter} steps: none are free now`;
  }
  const ways = isOver
    ? ""
    : data && mostDataDevices === 1
    ? "; data is taken late only where several owners take turns (--data-devices)"
    : "; heads are taken over late only where the edge server says after how many steps (--adopt after=N)";
  return `Cannot admit the device as the run must not have started: it is ${status}${ways}`;
}

/** There must be a place for another data device. */
function requireDataPlace(name: string, { members, mostDataDevices: most }: Admission): void {
  const count = members.filter((m) => m.device.data).length;
  if (count < most) return;
  throw new HandshakeError(
    most === 1
      ? `Cannot admit "${name}" as there must be one data device: there is one already`
      : `Cannot admit "${name}" as there must be at most ${most} data devices: there are ${count}`,
  );
}

/** A device must bring states of the run that goes on, and none to a new one. */
function requireRunStates(
  name: string,
  { brought, wanted }: { readonly brought: string | null; readonly wanted: string | null },
): void {
  if (brought !== wanted) {
    throw new HandshakeError(
      `Cannot admit "${name}" as it must bring ${
        wanted === null ? "no states to a new run" : `states of run "${wanted}", which goes on`
      }: current value is ${brought === null ? "none" : showValue(brought)}`,
    );
  }
}

/** Heads go back to the device that had them. */
function requireSaved(hello: MetaOf<"hello">, saved: readonly SavedDevice[]): void {
  if (saved.length === 0) return;
  const own = saved.find((d) => isSame(d, hello));
  if (own === undefined) {
    throw new HandshakeError(
      `Cannot admit ${textOf(hello)} as the devices with heads must be those of the saved state, ${
        saved.map(textOf).join(", ")
      }: it is none of them`,
    );
  }
  if (own.capacity !== hello.capacity) {
    throw new HandshakeError(
      `Cannot admit ${
        textOf(hello)
      } as its capacity must be ${own.capacity}, as in the saved state: current value is ${hello.capacity}`,
    );
  }
}
