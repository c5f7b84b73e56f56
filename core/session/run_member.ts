/**
 * A device of a run, as its server has it.
 *
 * @module
 */

import type { MetaOf } from "../protocol/messages.ts";
import type { Peer } from "../protocol/peer.ts";
import type { JoinedDevice } from "./run_events.ts";

/** A device that joined, with its connection. */
export interface RunMember {
  /** What others see of it. */
  readonly device: JoinedDevice;
  /** Its connection. */
  readonly peer: Peer;
  /** True if it tells the loss of each step. */
  readonly sharesLoss: boolean;
  /** What it said in its hello. */
  readonly hello: MetaOf<"hello">;
}

/** How the model and its training are divided: a device takes part only in what it was made for. */
export type RunSystem = "split" | "tensorParallel";
