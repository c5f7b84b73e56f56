/**
 * What the head modules of a device are made from.
 *
 * @module
 */

import type { HeadRange } from "./allocation.ts";
import type { LoraSettings, OptimizerSettings } from "./settings.ts";

/** What head modules are made from. */
export interface HeadModulesOptions {
  /** LoRA settings. */
  readonly lora: LoraSettings;
  /** Optimizer settings. */
  readonly optimizer: OptimizerSettings;
  /** L, layers of the model. */
  readonly layers: number;
  /** d, hidden size of the model. */
  readonly hidden: number;
  /** H, heads per layer of the model. */
  readonly heads: number;
  /** D, head size of the model. @default {hidden / heads} */
  readonly headSize?: number | undefined;
  /** The heads this device owns in every layer. */
  readonly range: HeadRange;
  /** Seed of the run. */
  readonly seed: number;
  /** Steps of the run, for the learning rate. */
  readonly steps: number;
  /** Factor a step of a pruned head's B, or of its core, see `RunSettings`. @default {1} */
  readonly prunedFade?: number | undefined;
  /** True to keep what was before each update, for `goBack`. @default {false} */
  readonly keepsCopy?: boolean | undefined;
}
