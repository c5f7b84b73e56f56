/**
 * What a user device is given, and what it has at the end of a run.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { Channel } from "../contracts/channel.ts";
import type { RunClock } from "../contracts/clock.ts";
import type { WireCodec } from "../contracts/codec.ts";
import type { Absences } from "../lora/absence.ts";
import type { Adapter } from "../lora/adapter.ts";
import type { HeadModules } from "../lora/head_modules.ts";
import type { ByteLedger } from "../protocol/ledger.ts";
import type { RunTask } from "../train/run_settings.ts";
import type { SavingTimes } from "../train/saving.ts";
import type { DataSide } from "./data_device.ts";
import type { DeviceKey } from "./device_key.ts";
import type { RunEnding } from "./run_events.ts";
import type { RunState, RunStateSource } from "./run_state.ts";
import type { Welcome } from "./welcome.ts";

/** Options of `runUserDevice`. */
export interface UserDeviceOptions {
  /** The engine for head modules and data side. */
  readonly engine: Engine;
  /** An open channel to the edge server; closed at the end. */
  readonly channel: Channel;
  /** Name for people. */
  readonly name: string;
  /**
   * Who this device is, whatever its name: 8 to 64 characters, random, the same whenever it joins; see `newDeviceId`
   * and `deviceIdIn`. Devices of one name are told apart by it, and heads go back to whoever had them.
   *
   * @default {that of the state, if there is one; else none}
   */
  readonly id?: string | undefined;
  /**
   * The key of the id, made once and kept, see `newDeviceKey` and `deviceKeyIn`: nobody else then takes this device's
   * place.
   *
   * @default {none}
   */
  readonly key?: DeviceKey | undefined;
  /**
   * Opens another channel when the connection is lost during the run: the device comes back by itself, with what it has
   * learnt. Needs an `id`.
   *
   * @default {none: a lost connection ends the run for this device}
   */
  reconnect?(signal: AbortSignal | undefined): Promise<Channel>;
  /** Longest time in milliseconds for which it tries to come back. @default {900000} */
  readonly serverLostMs?: number | undefined;
  /** The clock of that time and of the pauses between attempts. @default {the wall's} */
  readonly clock?: RunClock | undefined;
  /** What this device has saved of the run so far, to go on from where the edge server has to go back. @default {nothing} */
  savedStates?(): Promise<RunStateSource | null>;
  /** gamma, compute capacity in any unit that all devices share; 0 for a device without heads. */
  readonly capacity: number;
  /** Makes this the data device. */
  readonly data?: DataSide | undefined;
  /** Ends the run early; what was learnt is still returned. */
  readonly signal?: AbortSignal | undefined;
  /** Longest wait for the edge server during the run, in milliseconds. @default {120000} */
  readonly timeoutMs?: number | undefined;
  /** Longest wait for the other devices before the run starts, in milliseconds. @default {timeoutMs} */
  readonly joinTimeoutMs?: number | undefined;
  /** Codecs that this device knows besides the built-in ones. @default {[]} */
  readonly codecs?: readonly WireCodec[] | undefined;
  /** Most bytes of frames that may wait to be handled, see `PeerOptions`. @default {268435456} */
  readonly maxQueuedBytes?: number | undefined;
  /** Gives the fresh head modules other weights to start from. */
  readonly prepare?: ((modules: HeadModules) => void) | undefined;
  /** States of this device, of the run that goes on; the edge server says which of them it is. */
  readonly resume?: RunStateSource | undefined;
  /** Called with the state that the run goes on from, before anything is done with it; may throw to refuse. */
  onResume?(state: RunState): void;
  /** What the run must be for. @default {"train"} */
  readonly task?: RunTask | undefined;
  /**
   * What this device's heads have learnt before, an adapter or some heads of one: what a run for generation uses, and
   * a new run for training begins with.
   */
  readonly adapter?: Adapter | undefined;
  /** Called when the connection is lost and this device tries to come back, and with `null` when it has. */
  onLost?(error: Error | null): void;
  /** Called once the run starts. */
  onWelcome?(welcome: Welcome): void;
  /**
   * Saves what this device needs to go on: called after the steps that the edge server names, and when the
   * run ends without a fault. Steps go on meanwhile; the next save waits until it is done. What the data side is to
   * go on from is the caller's to add, before anything is waited for.
   */
  onState?(state: RunState): void | Promise<void>;
  /**
   * Called with head modules that are the best so far by the data device's validation, after `step` training steps, and
   * with what is known of heads that were away.
   */
  onBest?(step: number, modules: HeadModules, absences: Absences): void | Promise<void>;
  /** Called with true when the run is paused, and with false when it goes on. */
  onPause?(paused: boolean): void;
  /** Called after each training step. */
  onStep?(step: number, figures: DeviceStep): void;
}

/** What a device knows of a training step, after it. */
export interface DeviceStep {
  /** Its part of the head mask, [L * H_m], 1 = pruned; empty on a device without heads. */
  readonly mask: Uint8Array;
  /** Bytes of all frames so far, sent and received. */
  readonly totalBytes: number;
}

/** What a device has at the end of a run. */
export interface UserDeviceResult {
  /** Its head modules; `null` for a device without heads. The caller's to dispose. */
  readonly modules: HeadModules | null;
  /** What the server said. */
  readonly welcome: Welcome;
  /** Training steps done. */
  readonly steps: number;
  /** What is known of this device's heads, and of others' at the end: those that were away. */
  readonly absences: Absences;
  /** What was sent and received. */
  readonly ledger: ByteLedger;
  /** What saving took. */
  readonly saving: SavingTimes;
  /** Why the run ended; empty if it ran to its end. */
  readonly reason: string;
  /** Where the run ended if it did so without a fault: after its last step, or stopped on purpose; else `null`. */
  readonly ending: RunEnding | null;
  /** True if somebody stopped the run at the edge server, also where a step was not over. */
  readonly wasStopped: boolean;
  /** The error that ended the run, if one did: here, at the edge server or at another device. */
  readonly error: unknown;
}
