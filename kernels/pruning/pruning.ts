/**
 * Which heads go, decided on the GPU.
 *
 * L layers, H heads per layer, M devices. Maps over head modules are row-major, [L * H].
 *
 * @module
 */

import greedySource from "./greedy.wgsl" with { type: "text" };
import type { Engine } from "../engine/engine.ts";
import { defineKernel } from "../engine/kernel.ts";

const greedyKernel = defineKernel({
  name: "greedy",
  file: "pruning/greedy.wgsl",
  source: greedySource,
  bindings: ["s_base", "owner", "weights", "mask", "s_comp", "lost"],
  parameters: [
    "layers",
    "heads",
    "pitch",
    "weight_pitch",
    "lost_pitch",
    "most_pruned",
    "tau",
  ],
});

function requireLength(action: string, name: string, map: ArrayLike<number>, length: number): void {
  if (map.length === length) return;
  throw new TypeError(
    `Cannot ${action} as "${name}" must have ${length} entries (layers * heads): current length is ${map.length}`,
  );
}

/** Arguments of `greedyPruneOnGpu`. */
export interface GreedyPruneOnGpuOptions {
  /** L: number of layers. */
  readonly layers: number;
  /** H: number of heads per layer. */
  readonly heads: number;
  /** S_base: intrinsic importance, [L * H]; finite and not negative. */
  readonly sBase: Float32Array;
  /** H_m: heads that each device owns in every layer, [M]; contiguous ranges, in order. Sums to H. */
  readonly headsPerDevice: readonly number[];
  /** gamma_m: compute capacity of each device, [M]; positive, any unit. */
  readonly capacities: readonly number[];
  /** tau: share of a layer's sum of S_base that is to remain, in [0, 1]. @default {0.7} */
  readonly tau?: number;
  /** alpha: scale of the importance. @default {1} */
  readonly alpha?: number;
  /** rho: how strongly a weak device's heads count less. @default {0.2} */
  readonly rho?: number;
  /** beta: how much dearer a device's heads get as it loses heads. @default {0.3} */
  readonly beta?: number;
  /** eta: share of pruned heads above which a layer is pruned whole, in [0, 1]; 1 = never. @default {1} */
  readonly eta?: number;
}

/** Result of `greedyPruneOnGpu`. */
export interface GreedyPruneOnGpuResult {
  /** Head mask, [L * H]: 1 = pruned. */
  readonly mask: Uint8Array;
  /** S_comp before the first head was pruned, [L * H]. */
  readonly sComp: Float32Array;
}

/**
 * Factors of Eq. 29 that depend on the device alone, [M, H + 1]: entry (m, n) is alpha *
 * (gamma_m / sum gamma)^rho * (1 + beta * n / H_m), with n the heads that device m has lost. In double
 * precision, rounded once: a power is not exact on a GPU, and ties must fall alike everywhere.
 */
function deviceWeights(options: GreedyPruneOnGpuOptions): Float32Array {
  const { heads, headsPerDevice, capacities, alpha = 1, rho = 0.2, beta = 0.3 } = options;
  const total = capacities.reduce((a, b) => a + b, 0);
  const weights = new Float32Array(headsPerDevice.length * (heads + 1));
  headsPerDevice.forEach((owned, m) => {
    const share = alpha * (capacities[m]! / total) ** rho;
    for (let n = 0; n <= owned; n++) {
      weights[m * (heads + 1) + n] = share * (1 + beta * n / Math.max(owned, 1));
    }
  });
  return weights;
}

/** The largest number of pruned heads that is not above the share eta. */
function mostPruned(heads: number, eta: number): number {
  let most = heads;
  while (most / heads > eta) most--;
  return most;
}

/**
 * Greedy pruning (Eq. 29 and Eq. 30) and the layer-wise rule, on the GPU: the same decisions, bit for
 * bit, as the rule computed in float32 on the CPU.
 *
 * @example
 * ```ts ignore
 * const pruner = greedyPruner({ compute: (args) => greedyPruneOnGpu(engine, args) });
 * ```
 *
 * @throws {TypeError} If lengths do not fit.
 * @throws {RangeError} If an importance is not finite or negative, or tau or eta is not in [0, 1].
 */
export async function greedyPruneOnGpu(
  engine: Engine,
  options: GreedyPruneOnGpuOptions,
): Promise<GreedyPruneOnGpuResult> {
  const { layers, heads, sBase, headsPerDevice, capacities, tau = 0.7, eta = 1 } = options;
  const action = "prune greedily";
  requireLength(action, "sBase", sBase, layers * heads);
  const sum = headsPerDevice.reduce((a, b) => a + b, 0);
  if (sum !== heads || capacities.length !== headsPerDevice.length) {
    throw new TypeError(
      `Cannot ${action} as "headsPerDevice" must sum to ${heads} heads and "capacities" have as many entries: current values are [${headsPerDevice}] and [${capacities}]`,
    );
  }
  const bad = sBase.findIndex((s) => !(s >= 0 && s < Infinity));
  if (bad >= 0) {
    throw new RangeError(
      `Cannot ${action} as every entry of "sBase" must be finite and not negative: entry ${bad} is ${
        sBase[bad]
      }`,
    );
  }
  for (const [name, value] of [["tau", tau], ["eta", eta]] as const) {
    if (!(value >= 0 && value <= 1)) {
      throw new RangeError(
        `Cannot ${action} as "${name}" must be between 0 and 1: current value is ${value}`,
      );
    }
  }
  const devices = headsPerDevice.length;
  const owner = Uint32Array.from(headsPerDevice.flatMap((n, m) => new Array<number>(n).fill(m)));
  using base = engine.upload(sBase, layers, heads, "S_base");
  using ownerTensor = engine.upload(owner, 1, heads, "device of each head");
  using weights = engine.upload(deviceWeights(options), devices, heads + 1, "device weights");
  using mask = engine.tensor(layers, heads, "head mask");
  using sComp = engine.tensor(layers, heads, "S_comp");
  using lost = engine.tensor(layers, devices, "lost heads", "u32");
  engine.dispatch(greedyKernel, {
    bindings: { s_base: base, owner: ownerTensor, weights, mask, s_comp: sComp, lost },
    parameters: {
      layers,
      heads,
      pitch: base.pitch,
      weight_pitch: weights.pitch,
      lost_pitch: lost.pitch,
      most_pruned: mostPruned(heads, eta),
      tau,
    },
    workgroups: [Math.ceil(layers / 8)],
  });
  const [maskValues, sCompValues] = await engine.read([mask, sComp]);
  return { mask: Uint8Array.from(maskValues!), sComp: sCompValues! };
}
