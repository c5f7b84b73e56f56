/**
 * A place for this tab's device in the browser's storage. Several tabs of one browser are several devices.
 *
 * @module
 */

import { type ByteStore, type DeviceKey, newDeviceId, newDeviceKey } from "@edgetuner/core/device";
import { indexedDbStore, opfsStore } from "../shared/stores.ts";
import type { KeptHeads, RunPlace } from "./messages.ts";

/** Longest wait in milliseconds for a place that another tab has. */
const CLAIM_MS = 300;
/** Most tabs of a browser that take part at once. */
const MOST_TABS = 16;

/** What is noted of a run that this device takes part in. */
export interface TakingPart {
  readonly place: RunPlace;
  readonly run: string;
  readonly name: string;
  readonly capacity: number;
  /** It has texts to learn from. */
  readonly withData: boolean;
  /** False once it has left, or the run is over. */
  readonly isIn: boolean;
}

/** What this tab's device keeps. */
export interface Slot {
  /** States of runs, and who this device is. */
  readonly states: ByteStore;
  /** What heads have learnt. */
  readonly learnt: ByteStore;
  /** Name of the store of the latter. */
  readonly store: string;
  /** Its id. */
  readonly id: string;
  /** Its key. */
  readonly key: DeviceKey;
}

/** Takes the first place that no other tab uses, until this tab is gone. */
export async function claimSlot(): Promise<Slot> {
  for (let number = 1; number <= MOST_TABS; number++) {
    if (!await claim(`edgetuner-device-${number}`)) continue;
    const store = `edgetuner-${number}`;
    const states = indexedDbStore(store);
    return { states, learnt: await opfsStore(store), store, ...await identityIn(states) };
  }
  throw new Error(`Cannot take part in more than ${MOST_TABS} tabs of one browser`);
}

async function claim(name: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  // Held until the worker ends; one that was just ended lets go of it in a moment.
  const hold = () => {
    resolve(true);
    return new Promise(() => {});
  };
  navigator.locks.request(name, { signal: AbortSignal.timeout(CLAIM_MS) }, hold).catch(() => resolve(false));
  return await promise;
}

async function identityIn(store: ByteStore): Promise<{ readonly id: string; readonly key: DeviceKey }> {
  const kept = await readJson<{ id: string; key: DeviceKey }>(store, "identity");
  if (kept !== null) return kept;
  const made = { id: newDeviceId(), key: await newDeviceKey() };
  await writeJson(store, "identity", made);
  return made;
}

/** The run that this device took part in last; `null` if there was none. */
export function lastRun(store: ByteStore): Promise<TakingPart | null> {
  return readJson(store, "taking-part");
}

/** Notes the run. */
export function noteRun(store: ByteStore, noted: TakingPart): Promise<void> {
  return writeJson(store, "taking-part", noted);
}

/** What is kept of the last run; `null` if nothing. */
export function keptHeads(store: ByteStore): Promise<KeptHeads | null> {
  return readJson(store, "kept.json");
}

/** JSON under a name; `null` if there is none. */
export async function readJson<T>(store: ByteStore, name: string): Promise<T | null> {
  const bytes = await store.read(name);
  return bytes === null ? null : JSON.parse(new TextDecoder().decode(bytes));
}

/** Keeps JSON under a name. */
export async function writeJson(store: ByteStore, name: string, value: unknown): Promise<void> {
  await store.write(name, new TextEncoder().encode(JSON.stringify(value)));
}
