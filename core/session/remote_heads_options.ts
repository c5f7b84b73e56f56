/**
 * What head modules behind a network are given.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { RunClock } from "../contracts/clock.ts";
import type { ModelShape } from "../contracts/model_shape.ts";
import type { DeviceStatistic } from "../contracts/pruner.ts";
import type { HeadProjections } from "../lora/projections.ts";
import type { LoraSettings } from "../lora/settings.ts";
import type { HeadMember } from "./head_members.ts";
import type { WaitTimer } from "./wait_timer.ts";

/** Options of `RemoteHeads`. */
export interface RemoteHeadsOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** Shape of the model. */
  readonly model: ModelShape;
  /** LoRA settings. */
  readonly lora: LoraSettings;
  /** Seed of the run. */
  readonly seed: number;
  /** Frozen projections, where the LoRA settings ask for such from the base model. */
  readonly projections?: HeadProjections | undefined;
  /** The devices, together owning every head once, in order of their heads. */
  readonly devices: readonly HeadMember[];
  /** Statistics that devices send after each training step. */
  readonly statistics: readonly DeviceStatistic[];
  /** False to compute nothing while waiting for devices, for comparison. @default {true} */
  readonly overlap?: boolean;
  /** Largest global norm of a step's gradients, see `RunSettings`. @default {null} */
  readonly clipNorm?: number | null;
  /** Counts the time spent waiting for devices, after all that could be done meanwhile was submitted. */
  readonly waits: WaitTimer;
  /** Longest time in milliseconds that a device may keep the others waiting in a step. @default {Infinity} */
  readonly stepDeadlineMs?: number | undefined;
  /** The clock of that time. @default {the wall's} */
  readonly clock?: RunClock | undefined;
  /** How many times as large as usual an answer may be for what a device was asked. @default {10000} */
  readonly outlierFactor?: number | undefined;
  /** True to measure what the devices' links take, see `links`. @default {false} */
  readonly measuresLinks?: boolean | undefined;
  /**
   * Called when a device is lost, which is away from then on; the step fails and may begin again. Without it an error
   * of a device is one of the run.
   */
  onLost?(device: HeadMember, error: Error): void;
}
