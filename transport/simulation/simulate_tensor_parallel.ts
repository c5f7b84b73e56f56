/**
 * Fine-tuning with the base model itself divided, on a simulated network.
 *
 * @module
 */

import {
  allocateShares,
  runTensorParallelDevice,
  type Share,
  TensorParallelServer,
  type TensorParallelServerOptions,
} from "@edgetuner/core";
import { devicesOf, nameOf, sizeOf } from "./_simulation.ts";
import { runSimulated } from "./_simulated_run.ts";
import { segmentOf } from "./compute.ts";
import type { FrameRule } from "./network.ts";
import type { NetworkSimulationOptions, SimulationResult } from "./simulation_options.ts";

/** Options of {@linkcode simulateTensorParallel}. */
export interface TensorParallelSimulationOptions extends NetworkSimulationOptions {
  /** The base model's configuration and weights, of which the devices get their shares. */
  readonly checkpoint: TensorParallelServerOptions["model"];
  /** The server's own capacity, in the unit of the devices' capacities. @default {1} */
  readonly capacity?: number;
}

/**
 * Fine-tunes with the base model itself divided among edge server and devices (TPTensor), on emulated links. A
 * device with too little memory for its share ends the run: `error` says how much it would need.
 *
 * @throws {RangeError} If there are as many devices as heads per layer, or an option is out of range.
 * @throws {TypeError} If there is not exactly one data device, evaluation is asked for across engines, or a link's
 * profile is not one or has a failure of a device that there is not.
 */
export async function simulateTensorParallel(
  options: TensorParallelSimulationOptions,
): Promise<SimulationResult> {
  const { settings, model: { engine }, checkpoint, capacity = 1 } = options;
  const devices = devicesOf(options.devices);
  const size = sizeOf(options.model, settings);
  const { batch, length } = options.batches(0);
  const ranked = devices.map((d, device) => ({ device, capacity: d.capacity, name: nameOf(device) }))
    .filter((d) => d.capacity > 0)
    .sort((a, b) => b.capacity - a.capacity || (a.name < b.name ? -1 : 1));
  const shares = allocateShares(size.model, [capacity, ...ranked.map((d) => d.capacity)]);
  const shareOf = (device: number | null) =>
    shares[device === null ? 0 : 1 + ranked.findIndex((d) => d.device === device)];
  return await runSimulated({ ...options, evaluateEvery: 0 }, {
    rules: tensorParallelRules(shareOf),
    comesBack: false,
    open: (common) =>
      new TensorParallelServer({
        ...common,
        engine,
        model: checkpoint,
        capacity,
        largestStep: { batch, length },
      }),
    run: (common, device) =>
      runTensorParallelDevice({ ...common, memory: devices[device]!.memory ?? Number.MAX_SAFE_INTEGER }),
    own: (server) => server.modules === null ? [] : [server.modules],
  });
}

/** Compute of the ranks: a block's part after it was sent out, or before it is answered. */
function tensorParallelRules(
  shareOf: (device: number | null) => Share | undefined,
): Record<string, FrameRule> {
  const block = ({ backward }: { readonly backward: boolean }): FrameRule => (frame, context) => {
    const { device, direction, size } = context;
    const share = shareOf(device);
    const tensor = frame.tensors[0];
    if (share === undefined || tensor === undefined) return {};
    const rows = tensor.shape[0]!;
    const name = frame.layer % 2 === 1 ? "feedForwardShare" : "attentionShare";
    const own = { heads: share.heads.count, columns: share.columns.count };
    const work = [segmentOf({ name, rows, backward }, { size, counted: (tokens) => tokens, share: own })];
    // The edge server sends a block's input and computes its own part meanwhile.
    if (device === null) return direction === "sent" ? { after: work } : {};
    return direction === "received" ? { before: work } : {};
  };
  return {
    activation: block({ backward: false }),
    activationGradient: block({ backward: true }),
    // The layers' work was done block by block.
    hidden: (_, { device }) => device === null ? {} : null,
  };
}
