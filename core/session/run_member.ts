/**
 * A device of a run, as its server has it.
 *
 * @module
 */

import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import { shortId, textOf } from "./_identity.ts";
import type { JoinedDevice } from "./run_events.ts";
import type { SavedDevice } from "./run_state.ts";

/** A device that joined, with its connection. */
export interface RunMember {
  /** What others see of it. */
  readonly device: JoinedDevice;
  /** Its connection. */
  peer: Peer;
  /** Another connection over which it has come back, until the run takes it in; `null` if it has not. */
  returning: Peer | null;
  /** A step of which it had all but the last messages when it came back. */
  unfinished?: number | undefined;
  /** True if it tells the loss of each step. */
  readonly sharesLoss: boolean;
  /** What it said in its hello. */
  readonly hello: MetaOf<"hello">;
}

/** What others see of a device that joins. */
function joinedDevice({ name, id, capacity, data }: MetaOf<"hello">): JoinedDevice {
  return { name, id: shortId(id), capacity, data, range: null, connected: true };
}

/** A device that joins. */
export function newMember(
  hello: MetaOf<"hello">,
  peer: Peer,
  { hasNamesake }: { readonly hasNamesake: boolean },
): RunMember {
  peer.name = `device ${hasNamesake ? textOf(hello) : `"${hello.name}"`}`;
  return { device: joinedDevice(hello), peer, returning: null, sharesLoss: hello.sharesLoss, hello };
}

/** A device that takes over the heads of another one; it is taken in before the next step. */
export function takingOver(orphan: RunMember, hello: MetaOf<"hello">): RunMember {
  const device = { ...joinedDevice(hello), range: orphan.device.range, connected: false };
  const { sharesLoss } = hello;
  return { ...orphan, device, hello, sharesLoss, returning: null, unfinished: undefined };
}

/** What a state notes of a device. */
export function savedDevice(
  { hello: { name, id, key }, device: { capacity, range } }: RunMember,
): SavedDevice {
  return { name, ...(id !== undefined && { id }), ...(key !== undefined && { key }), capacity, range };
}

/** How the model and its training are divided: a device takes part only in what it was made for. */
export type RunSystem = "split" | "tensorParallel";
