/**
 * What the options of an edge server must be.
 *
 * @module
 */

import { checkPruner } from "../contracts/pruner.ts";
import { requireProjections } from "../lora/base_projections.ts";
import type { RunSettings } from "../train/run_settings.ts";
import { checkSharing } from "./data_sharing.ts";
import type { EdgeServerOptions } from "./edge_server_options.ts";
import { checkOutlierFactor, OUTLIER_FACTOR } from "./outliers.ts";

/**
 * Checks options against each other and the settings of the run.
 *
 * @throws {RangeError} If one is out of range.
 * @throws {TypeError} If projections from the base model are asked for and not given.
 * @throws {PluginError} If the pruner is not one, see `checkPruner`.
 */
export function checkEdgeServer(
  options: EdgeServerOptions,
  { lora, accumulate }: Required<RunSettings>,
): void {
  const { maxCacheBytes = 0, outlierFactor = OUTLIER_FACTOR, pruner, base, projections, sharing } = options;
  if (!(maxCacheBytes >= 0)) {
    throw new RangeError(
      `Cannot start the edge server as maxCacheBytes must be 0 or more: current value is ${maxCacheBytes}`,
    );
  }
  checkPruner(pruner);
  checkOutlierFactor(outlierFactor);
  requireProjections(lora, base.shape, projections);
  const probes = pruner.needs.includes("trueGradientNorm");
  if (accumulate > 1 && probes) {
    throw new RangeError(
      `Cannot start the edge server as accumulate must be 1 for pruner "${pruner.name}", which probes whole batches: current value is ${accumulate}`,
    );
  }
  if (sharing !== undefined) checkSharing(sharing, { probes, accumulate });
}
