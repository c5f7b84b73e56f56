/**
 * What every server of a run is given.
 *
 * @module
 */

import type { RunClock } from "../contracts/clock.ts";
import type { WireCodec } from "../contracts/codec.ts";
import type { RunSettings } from "../train/run_settings.ts";
import type { RunStateSource } from "./run_state.ts";

/** Options of every server of a run. */
export interface RunServerOptions {
  /** Fingerprint of the checkpoint; a data device's must be the same. */
  readonly fingerprint: string;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Devices with heads that must join before the run starts. */
  readonly devices: number;
  /** Name of the run. @default {a random one} */
  readonly run?: string | undefined;
  /** Longest wait for a device during a step, in milliseconds. @default {120000} */
  readonly timeoutMs?: number | undefined;
  /** Longest time that a peer may take to say hello, in milliseconds. @default {10000} */
  readonly helloTimeoutMs?: number | undefined;
  /** Longest wait until all devices have joined, in milliseconds. @default {600000} */
  readonly joinTimeoutMs?: number | undefined;
  /**
   * Longest pause, in milliseconds; then the run ends without a fault, and devices keep what they learnt. 0 for no
   * limit.
   *
   * @default {86400000}
   */
  readonly pauseTimeoutMs?: number | undefined;
  /** Codecs that the run may use besides the built-in ones. @default {[]} */
  readonly codecs?: readonly WireCodec[] | undefined;
  /** Most bytes of frames that may wait to be handled, see `PeerOptions`. @default {268435456} */
  readonly maxQueuedBytes?: number | undefined;
  /** The clock of step times, in milliseconds; another one for runs in virtual time. @default {performance.now} */
  readonly now?: (() => number) | undefined;
  /**
   * The clock of waits for devices that join, are lost or are slow; another one for runs in virtual time. Limits of a
   * single answer and of a pause are always of the wall's.
   *
   * @default {the wall's}
   */
  readonly clock?: RunClock | undefined;
  /**
   * Checkpoints of this server to go on from. Every device must bring those of its own, see
   * `UserDeviceOptions.resume`; the run goes on from the newest step that all have.
   */
  readonly resume?: RunStateSource | undefined;
}
