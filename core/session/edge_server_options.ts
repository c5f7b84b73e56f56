/**
 * What an edge server is given.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { Pruner } from "../contracts/pruner.ts";
import type { HeadProjections } from "../lora/projections.ts";
import type { BaseLayers } from "../model/base.ts";
import type { DataSharing } from "./data_sharing.ts";
import type { RunServerOptions } from "./run_server_options.ts";
import type { RunState } from "./run_state.ts";
import type { LossPolicy } from "./step_attempts.ts";

/** Options of an edge server. */
export interface EdgeServerOptions extends RunServerOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** The base model's layers. */
  readonly base: BaseLayers;
  /** Decides which heads are pruned. */
  readonly pruner: Pruner;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array | undefined;
  /** Frozen projections from the base model, where the LoRA settings ask for them: see `baseProjections`. */
  readonly projections?: HeadProjections | undefined;
  /**
   * Saves what the edge server needs to go on: called after every `settings.saveEvery` steps or every
   * `saveEveryMs`, and when the run ends without a fault. The devices save after the same steps. Steps go on
   * meanwhile; the next save waits until it is done.
   */
  onState?(state: RunState): void | Promise<void>;
  /**
   * Milliseconds from one save to the next where `settings.saveEvery` is 0; more where saving, on whatever
   * party, takes more than 1 % of the time; 0 for no saves in between. @default {0}
   */
  readonly saveEveryMs?: number | undefined;
  /** Most bytes of keys and values that generation may keep; a data device that asks for more is closed. @default {1073741824} */
  readonly maxCacheBytes?: number | undefined;
  /**
   * What to do when a device with heads is lost, too slow, or sends what is not valid: `"prune"` goes on without its
   * heads while another device has some, `"wait"` waits for it first, `"stop"` ends the run. The step begins again.
   *
   * @default {"prune"}
   */
  readonly onLoss?: LossPolicy | undefined;
  /**
   * Longest wait in milliseconds for a lost device without which the run cannot go on: the data device, the last one with
   * heads, or with `"wait"` any. @default {60000}
   */
  readonly lossWaitMs?: number | undefined;
  /**
   * How many times as large as usual an answer of a device may be for what it was asked: one that is larger is a fault of
   * the device, as numbers are that are not finite. `Infinity` for no limit.
   *
   * @default {10000}
   */
  readonly outlierFactor?: number | undefined;
  /**
   * Steps for which a device must have been away until a new one may join and take over its heads, which begin anew. Heads
   * of a device that left on purpose are free at once.
   *
   * @default {nobody joins after the start}
   */
  readonly adoptAfter?: number | undefined;
  /**
   * How several people's data is shared: its owners take turns, and may join late. Each needs `DataSide.turn`.
   *
   * @default {there is one device with data, which says what comes next}
   */
  readonly sharing?: DataSharing | undefined;
  /** Longest time in milliseconds that a device with heads may keep the others waiting in a step. @default {Infinity} */
  readonly stepDeadlineMs?: number | undefined;
}
