/**
 * Who joins a run that goes on.
 *
 * @module
 */

import type { MetaOf } from "../protocol/messages.ts";
import { isSame } from "./_identity.ts";
import type { RunMember } from "./run_member.ts";
import type { SavedDevice } from "./run_state.ts";

/**
 * True if a device may take over heads: with data only among several owners, and on the run's model.
 *
 * @param run Fingerprint of the model, and data devices that may join; 0 where one alone has the data.
 */
export function mayAdopt(
  hello: MetaOf<"hello">,
  run: { readonly fingerprint: string; readonly ownersLeft: number },
): boolean {
  const { capacity, data, states, system = "split", task = "train", fingerprint } = hello;
  const mayBeOwner = fingerprint === run.fingerprint && run.ownersLeft > 0;
  return capacity > 0 && (!data || mayBeOwner) && states === undefined && system === "split" &&
    task === "train";
}

/**
 * What one of several owners says that would have heads: without any that are free, it helps with its data alone.
 *
 * @param hello What it said.
 * @param run The devices that have joined, those of the run that goes on, and whether heads are free for it; `null`
 * before the start, when all are.
 */
export function asOwnerAlone(
  hello: MetaOf<"hello">,
  run: {
    readonly members: readonly RunMember[];
    readonly saved: readonly SavedDevice[];
    readonly isFree: boolean | null;
  },
): MetaOf<"hello"> {
  if (!hello.data || hello.capacity === 0) return hello;
  const known = run.members.find((m) => isSame(m.hello, hello))?.hello.capacity;
  const wasWithout = run.saved.some((device) => device.range === null && isSame(device, hello));
  const isWithout = known === undefined ? wasWithout || run.isFree === false : known === 0;
  return isWithout ? { ...hello, capacity: 0 } : hello;
}
