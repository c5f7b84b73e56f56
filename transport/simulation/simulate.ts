/**
 * Whole fine-tuning runs on a simulated network: an edge server and many devices in one process
 * train for real, while links and, in virtual time, computers are emulated. The same seeds and the
 * same compute model give the same losses, bytes and times on every run. Devices and the edge server
 * come and go as the links' profiles say, and the run goes on as a real one does.
 *
 * @module
 */

import { EdgeServer, type LossPolicy, runUserDevice } from "@edgetuner/core";
import type { Pruner } from "@edgetuner/core/contracts";
import { runSimulated } from "./_simulated_run.ts";
import type { NetworkSimulationOptions, SimulationResult } from "./simulation_options.ts";

/** Options of {@linkcode simulate}. */
export interface SplitSimulationOptions extends NetworkSimulationOptions {
  /** Decides which heads are pruned. */
  // deno-lint-ignore no-explicit-any -- a pruner of any state
  readonly pruner: Pruner<any>;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array;
  /**
   * What to do when a device is lost, as in the options of `EdgeServer`. With `"stop"` devices do not come back, and the
   * edge server neither.
   *
   * @default {"prune"}
   */
  readonly onLoss?: LossPolicy;
  /** Longest wait in milliseconds of the clock for a lost device without which the run cannot go on. @default {60000} */
  readonly lossWaitMs?: number;
  /** Longest time in milliseconds of the clock that a device may keep the others waiting in a step. @default {Infinity} */
  readonly stepDeadlineMs?: number;
}

/**
 * Fine-tunes with the split step on emulated links and returns what it took. Whatever ends the run early is
 * in the result with everything up to then; check `error`, a `TrainingError` where a loss was not finite.
 *
 * @throws {RangeError} If there are more devices than heads per layer, or an option is out of range.
 * @throws {TypeError} If there is not exactly one data device, evaluation is asked for across engines, or a link's
 * profile is not one or has a failure of a device that there is not.
 * @throws {PluginError} If the pruner is not one.
 * @category Simulation
 *
 * @example
 * ```ts
 * import { defaultRunSettings, loadEmbeddingAndHead, loadLayers, openModel } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 * import { noPruner } from "@edgetuner/plugins";
 * import { LINK_PROFILES, simulate } from "@edgetuner/transport";
 *
 * using engine = await Engine.create();
 * const { model } = await openModel("cli/assets/tiny_gpt2");
 * using layers = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * const tokens = Uint32Array.from({ length: 16 }, (_, i) => i);
 * const batch = { tokens, targets: tokens, mask: new Float32Array(16).fill(1), batch: 1, length: 16 };
 * const run = await simulate({
 *   model: { engine, layers, ends },
 *   settings: defaultRunSettings(2),
 *   batches: () => batch,
 *   pruner: noPruner(),
 *   devices: 2,
 *   link: LINK_PROFILES["wifi-5"],
 * });
 * console.log(run.steps.map(({ loss, bytes }) => [loss, bytes]));
 * ```
 */
export async function simulate(options: SplitSimulationOptions): Promise<SimulationResult> {
  const { engine, layers: base, projections } = options.model;
  const { pruner, baseNorm, onLoss = "prune", lossWaitMs, stepDeadlineMs } = options;
  const own = { engine, base, pruner, baseNorm, projections, onLoss, lossWaitMs, stepDeadlineMs };
  return await runSimulated(options, {
    rules: {},
    comesBack: onLoss !== "stop",
    open: (common) => new EdgeServer({ ...common, ...own }),
    run: (common) => runUserDevice(common),
    own: () => [],
  });
}
