/**
 * Head pruning on the GPU: importance of the heads after a step, and which heads go.
 *
 * L layers, H heads per layer, M devices. Maps over head modules are row-major, [L * H].
 *
 * @module
 */

import greedySource from "./greedy.wgsl" with { type: "text" };
import importanceSource from "./importance.wgsl" with { type: "text" };
import type { Engine } from "../engine/engine.ts";
import { defineKernel } from "../engine/kernel.ts";

const importanceKernel = defineKernel({
  name: "importance",
  file: "pruning/importance.wgsl",
  source: importanceSource,
  bindings: ["gradient", "observed", "previous", "g", "s"],
  parameters: [
    "layers",
    "heads",
    "pitch",
    "now",
    "before",
    "recovery",
    "zero",
  ],
});

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

/** Arguments of `updateImportance`. */
export interface UpdateImportanceOptions {
  /** L: number of layers. */
  readonly layers: number;
  /** H: number of heads per layer. */
  readonly heads: number;
  /** Gradient norms of the step, any values, [L * H]. Entries that are not finite count as not observed. */
  readonly gradient: Float32Array;
  /** 1 where the step has shown something, 0 for pruned heads, [L * H]. @default {all} */
  readonly observed?: Uint8Array | undefined;
  /** S of the step before, [L * H]; `null` at the first step. */
  readonly previous: Float32Array | null;
  /** lambda: weight of this step, in [0, 1]. */
  readonly lambda: number;
  /** Share of the way to the mean of the observed heads that the others drift, in [0, 1]. @default {0} */
  readonly recovery?: number;
}

/** Result of `updateImportance`. */
export interface UpdateImportanceResult {
  /** G: the gradient norms scaled to [0, 1] over the observed heads, 0 for the others, [L * H]. */
  readonly g: Float32Array;
  /** S = lambda * G + (1 - lambda) * S of the step before; others held, with drift, [L * H]. */
  readonly s: Float32Array;
}

/**
 * Min-max normalisation of a gradient map and smoothing along the steps. A head that was not observed
 * takes no part: its S is held and drifts to the mean of the observed heads of its layer, or of all
 * layers if its layer has none. If nothing was observed, S stays.
 *
 * @throws {TypeError} If a map has another length.
 * @throws {RangeError} If lambda or recovery is not in [0, 1].
 */
export async function updateImportance(
  engine: Engine,
  options: UpdateImportanceOptions,
): Promise<UpdateImportanceResult> {
  const { layers, heads, gradient, observed, previous, lambda, recovery = 0 } = options;
  const action = "update the importance";
  const size = layers * heads;
  requireLength(action, "gradient", gradient, size);
  if (observed !== undefined) requireLength(action, "observed", observed, size);
  if (previous !== null) requireLength(action, "previous", previous, size);
  for (const [name, value] of [["lambda", lambda], ["recovery", recovery]] as const) {
    if (!(value >= 0 && value <= 1)) {
      throw new RangeError(
        `Cannot ${action} as "${name}" must be between 0 and 1: current value is ${value}`,
      );
    }
  }
  // WGSL may take it that there is no NaN: such entries are left out here.
  const seen = Uint32Array.from(gradient, (x, i) => observed?.[i] !== 0 && Number.isFinite(x) ? 1 : 0);
  using gradientTensor = engine.upload(
    gradient.map((x, i) => seen[i] ? x : 0),
    layers,
    heads,
    "gradient norms",
  );
  using observedTensor = engine.upload(seen, layers, heads, "observed heads");
  using previousTensor = engine.upload(
    previous ?? new Float32Array(size),
    layers,
    heads,
    "importance before",
  );
  using g = engine.tensor(layers, heads, "normalised gradient norms");
  using s = engine.tensor(layers, heads, "importance");
  // The first step has nothing to smooth with or to hold: S = G, and the others take the mean.
  const first = previous === null;
  engine.dispatch(importanceKernel, {
    bindings: { gradient: gradientTensor, observed: observedTensor, previous: previousTensor, g, s },
    parameters: {
      layers,
      heads,
      pitch: g.pitch,
      now: first ? 1 : lambda,
      before: first ? 0 : 1 - lambda,
      recovery: first ? 1 : recovery,
      zero: 0,
    },
    workgroups: [Math.ceil(layers / 8)],
  });
  const [gValues, sValues] = await engine.read([g, s]);
  return { g: gValues!, s: sValues! };
}

/** Arguments of `pruneGreedily`. */
export interface PruneGreedilyOptions {
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

/** Result of `pruneGreedily`. */
export interface PruneGreedilyResult {
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
function deviceWeights(options: PruneGreedilyOptions): Float32Array {
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
 * const pruner = greedyPruner({ compute: (args) => pruneGreedily(engine, args) });
 * ```
 *
 * @throws {TypeError} If lengths do not fit.
 * @throws {RangeError} If an importance is not finite or negative, or tau or eta is not in [0, 1].
 */
export async function pruneGreedily(
  engine: Engine,
  options: PruneGreedilyOptions,
): Promise<PruneGreedilyResult> {
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
