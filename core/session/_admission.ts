/**
 * Which devices may join a run.
 *
 * @module
 */

import { HandshakeError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import type { MetaOf } from "../protocol/messages.ts";
import type { RunSettings } from "../train/run_settings.ts";
import { isSame, savedWithHeads, textOf } from "./_identity.ts";
import type { SavedDevice } from "./run_state.ts";
import type { RunStatus } from "./run_events.ts";
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

/** Why a run cannot start: who has joined within the limit. */
export function missingText(
  members: readonly RunMember[],
  { devices, owners, limitMs }: {
    readonly devices: number;
    readonly owners: number;
    readonly limitMs: number;
  },
): string {
  const withData = members.filter((m) => m.device.data);
  const heads = `${withHeads(members).length} joined`;
  if (owners > 1) {
    const names = withData.map((m) => `"${m.device.name}"`).join(", ") || "none";
    return `Cannot start the run as ${devices} devices with heads and ${owners} with data must join within ${limitMs} ms: ${heads}, with data ${names}`;
  }
  const joined = `${heads}, ${withData.length > 0 ? "with" : "without"} a data device`;
  return `Cannot start the run as ${devices} devices with heads and a data device must join within ${limitMs} ms: ${joined}`;
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
    const mayBeData = run.mostDataDevices > 1 && data && !isOver
      ? "; one with data may join without heads, with capacity 0"
      : "";
    throw new HandshakeError(
      `Cannot admit the device as the run must not have started: it is ${run.status}${mayBeData}`,
    );
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
