/**
 * What can be seen of a run and done to it, wherever its steps are computed.
 *
 * @module
 */

import type { ModelShape } from "../contracts/model_shape.ts";
import type { LedgerEntry } from "../protocol/ledger.ts";
import type { EdgeServerEvent, JoinedDevice, RunStatus, StepRecord } from "./run_events.ts";
import type { RunSettings } from "../train/run_settings.ts";

/** Whether whoever computes the steps of a run is well. */
export interface RunHealth {
  /** Milliseconds since its last sign of life; 0 where the steps are computed in this thread. */
  readonly silentMs: number;
  /** Milliseconds since the last step ended; `null` before the first. */
  readonly sinceStepMs: number | null;
}

/** What a base model is, as those need it who export what was learnt. */
export interface BaseIdentity {
  /** Its name for people. */
  readonly name: string;
  /** Its family. */
  readonly family: string;
  /** G, heads of keys and values of a layer. */
  readonly kvHeads: number;
}

/** How a device comes to a run. */
export interface JoinOptions {
  /** The device that was let in over this channel, if it was invited: it must have this id, and prove this key. */
  readonly device?: { readonly id: string; readonly key: string } | undefined;
}

/** A run, to be watched and controlled. */
export interface RunHandle {
  /** Name of the run. */
  readonly run: string;
  /** State of the run. */
  readonly status: RunStatus;
  /** Settings of the run. */
  readonly settings: RunSettings;
  /** Shape of the base model. @default {not known} */
  readonly model?: ModelShape;
  /** What the base model is. @default {not known} */
  readonly base?: BaseIdentity;
  /** Devices with heads that the run waits for. @default {not known} */
  readonly places?: number;
  /** Devices that joined, in order of joining. */
  readonly devices: readonly JoinedDevice[];
  /** The last step; `null` before the first. */
  readonly latest: StepRecord | null;
  /** Whether whoever computes the steps is well; without it a run counts as well until it has failed. */
  health?(): RunHealth;
  /** Lines of the byte ledger so far. */
  traffic(): readonly LedgerEntry[];
  /** Holds the run before its next step. */
  pause(): void;
  /** Goes on after `pause`. */
  resume(): void;
  /** Ends the run after the current step; devices keep what they learnt. */
  stop(reason?: string): void;
  /**
   * Removes a device for good: it is told so, its heads are pruned, and it may not come back.
   *
   * @param device Its id, or the first eight characters of it; its name if it has none.
   * @param reason What it is told.
   * @returns False if the run has no such device.
   */
  remove?(device: string, reason?: string): boolean;
  /**
   * Calls a listener with everything that happens from now on.
   *
   * @returns A function that ends it.
   */
  subscribe(listener: (event: EdgeServerEvent) => void): () => void;
}
