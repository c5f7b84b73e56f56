/**
 * The mathematics of head pruning, as a readable reference: min-max normalisation, smoothing along
 * the steps, comprehensive importance (Eq. 29), greedy pruning (Eq. 30) and the layer-wise rule.
 *
 * L = layers, H = heads per layer, M = user devices, H_m = heads of device m. Maps over head modules
 * are row-major `Float32Array`s or `Uint8Array`s of length L * H: entry `l * H + h` is head `h` of
 * layer `l`. In a mask 1 = pruned.
 *
 * **Arithmetic.** Everything per head is float32: every product and every sum is rounded at once
 * (`Math.fround`). What depends on devices alone (a power and a quotient, which are not exact on a
 * GPU) is computed in double and rounded to float32 once, in {@linkcode deviceWeights}. Greedy
 * pruning is then one product per head, sums in index order, one product for the limit, and
 * comparisons: operations that WGSL rounds correctly and that leave nothing to fuse or to reorder,
 * so that a kernel can give the same bits.
 *
 * @module
 */

import { type NumberCheck, numberCheck } from "../contracts/check_number.ts";

/** Which device owns which heads, and the three parameters of Eq. 29. */
export interface ImportanceOptions {
  /** H_m: heads that each device owns in every layer, [M]; device m owns the range after device m - 1. Sums to H. */
  readonly headsPerDevice: readonly number[];
  /** gamma_m: compute capacity of each device, [M]; positive, any unit. */
  readonly capacities: readonly number[];
  /** alpha: scale of the whole importance; above 0. @default {1} */
  readonly alpha?: number;
  /** rho: how strongly a weak device's heads count less; 0 = not at all. @default {0.2} */
  readonly rho?: number;
  /** beta: how much dearer a device's heads get as it loses heads of this layer; 0 = not at all. @default {0.3} */
  readonly beta?: number;
}

/** Arguments of {@linkcode greedyPrune}. */
export interface GreedyPruneOptions extends ImportanceOptions {
  /** S_base: intrinsic importance, [L * H]; finite and not negative, usually in [0, 1]. */
  readonly sBase: Float32Array;
  /** L: number of layers. */
  readonly layers: number;
  /** H: number of heads per layer. */
  readonly heads: number;
  /** tau: share of a layer's sum of S_base that is to remain, in [0, 1]; 1 prunes nothing. @default {0.7} */
  readonly tau?: number;
}

/** Result of {@linkcode greedyPrune}. */
export interface GreedyPruneResult {
  /** Head mask z, [L * H]: 1 = pruned. */
  readonly mask: Uint8Array;
  /** S_comp before the first head was pruned, [L * H]. */
  readonly sComp: Float32Array;
}

/**
 * An implementation of {@linkcode greedyPrune}, such as a GPU kernel. It gives the same mask and the
 * same `sComp` for the same arguments.
 */
export type GreedyCompute = (
  args: GreedyPruneOptions,
) => GreedyPruneResult | Promise<GreedyPruneResult>;

/** Checks a positive integer. */
function requirePositiveInteger(check: NumberCheck, name: string, value: number): void {
  check(name, value, "a positive integer", (n) => Number.isSafeInteger(n) && n > 0);
}

function requireImportance(action: string, name: string, map: Float32Array, size: number): void {
  if (!(map instanceof Float32Array) || map.length !== size) {
    const what = map instanceof Float32Array ? `length ${map.length}` : typeof map;
    throw new TypeError(
      `Cannot ${action} as "${name}" must be a Float32Array of ${size} entries: current value is ${what}`,
    );
  }
  const bad = map.findIndex((s) => !(s >= 0 && s < Infinity));
  if (bad >= 0) {
    throw new RangeError(
      `Cannot ${action} as every entry of "${name}" must be finite and not negative: entry ${bad} is ${
        map[bad]
      }`,
    );
  }
}

/** Device of each head of a layer, [H]. */
function deviceOfHead(action: string, headsPerDevice: readonly number[], heads: number): Uint32Array {
  const sum = headsPerDevice.reduce((a, b) => a + b, 0);
  if (sum !== heads) {
    throw new RangeError(
      `Cannot ${action} as "headsPerDevice" must sum to ${heads} heads: current value is [${headsPerDevice}]`,
    );
  }
  return Uint32Array.from(headsPerDevice.flatMap((n, m) => new Array<number>(n).fill(m)));
}

/**
 * Maps the entries linearly to [0, 1]: the smallest becomes 0, the largest 1. A flat map becomes all
 * zeros. Rounded to float32 once per entry.
 *
 * @example
 * ```ts
 * import { minMaxNormalise } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals([...minMaxNormalise(Float32Array.of(2, 6, 3))], [0, 1, 0.25]);
 * ```
 *
 * @param map Any finite values, [L * H].
 * @param leaveOut Entries with 1 here are neither looked at nor scaled: they become 0. [L * H], for
 * instance the last step's mask, as a pruned head's gradient was not observed. Leave out for none.
 * @returns The normalised map, [L * H].
 * @throws {TypeError} If `leaveOut` has another length than `map`.
 * @throws {RangeError} If an entry that is looked at is not finite.
 */
export function minMaxNormalise(map: Float32Array, leaveOut?: Uint8Array): Float32Array {
  if (leaveOut !== undefined && leaveOut.length !== map.length) {
    throw new TypeError(
      `Cannot normalise as "leaveOut" must have ${map.length} entries: current length is ${leaveOut.length}`,
    );
  }
  let min = Infinity, max = -Infinity;
  map.forEach((x, i) => {
    if (leaveOut?.[i]) return;
    if (!Number.isFinite(x)) {
      throw new RangeError(`Cannot normalise as every entry must be finite: entry ${i} is ${x}`);
    }
    min = Math.min(min, x);
    max = Math.max(max, x);
  });
  if (!(max > min)) return new Float32Array(map.length);
  return map.map((x, i) => leaveOut?.[i] ? 0 : (x - min) / (max - min));
}

/**
 * One step of exponential smoothing: S[k] = lambda * G[k] + (1 - lambda) * S[k-1].
 *
 * @example
 * ```ts
 * import { smoothImportance } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const s = smoothImportance(Float32Array.of(1, 0), Float32Array.of(0, 1), 0.75);
 * assertEquals([...s], [0.75, 0.25]);
 * ```
 *
 * @param g G[k], importance of this step, [L * H].
 * @param previous S[k-1], [L * H]; `null` at the first step, then S = G.
 * @param lambda Weight of this step, in [0, 1]; 1 = no memory.
 * @returns S[k], [L * H].
 * @throws {RangeError} If `lambda` is not in [0, 1].
 * @throws {TypeError} If the lengths differ.
 */
export function smoothImportance(
  g: Float32Array,
  previous: Float32Array | null,
  lambda: number,
): Float32Array {
  const action = "smooth the importance";
  numberCheck(action)("lambda", lambda, "between 0 and 1", (x) => x >= 0 && x <= 1);
  if (previous === null) return g.slice();
  if (previous.length !== g.length) {
    throw new TypeError(
      `Cannot ${action} as "previous" must have ${g.length} entries: current length is ${previous.length}`,
    );
  }
  const now = Math.fround(lambda);
  const before = Math.fround(1 - lambda);
  return g.map((x, i) => Math.fround(now * x) + Math.fround(before * previous[i]!));
}

/**
 * The factor of Eq. 29 that depends on the device alone, for every number of heads it may have lost:
 * `weights[m][n]` = alpha * (gamma_m / sum gamma)^rho * (1 + beta * n / H_m), n = 0 ... H_m.
 * Computed in double, rounded to float32 once.
 *
 * @returns M arrays; that of device m has H_m + 1 entries.
 * @throws {RangeError} If an option is out of range.
 * @throws {TypeError} If an option is not a number, or if there is not one capacity per device.
 */
export function deviceWeights(options: ImportanceOptions): Float32Array[] {
  const { headsPerDevice, capacities, alpha = 1, rho = 0.2, beta = 0.3 } = options;
  const action = "weigh the devices";
  const check = numberCheck(action);
  if (headsPerDevice.length === 0 || capacities.length !== headsPerDevice.length) {
    throw new TypeError(
      `Cannot ${action} as "capacities" must have one entry per device of "headsPerDevice": current lengths are ${capacities.length} and ${headsPerDevice.length}`,
    );
  }
  for (const n of headsPerDevice) {
    check("headsPerDevice", n, "integers that are not negative", (x) => Number.isSafeInteger(x) && x >= 0);
  }
  for (const gamma of capacities) {
    check("capacities", gamma, "positive and finite", (x) => x > 0 && x < Infinity);
  }
  check("alpha", alpha, "positive and finite", (x) => x > 0 && x < Infinity);
  check("rho", rho, "finite and not negative", (x) => x >= 0 && x < Infinity);
  check("beta", beta, "finite and not negative", (x) => x >= 0 && x < Infinity);
  const total = capacities.reduce((a, b) => a + b, 0);
  return headsPerDevice.map((owned, m) => {
    const share = alpha * (capacities[m]! / total) ** rho;
    return Float32Array.from({ length: owned + 1 }, (_, n) => share * (1 + beta * n / Math.max(owned, 1)));
  });
}

/**
 * Comprehensive importance (Eq. 29) of head h on device m in layer l:
 * S_comp = alpha * S_base * (gamma_m / sum gamma)^rho * (1 + beta * Npruned[l,m] / H_m), as one
 * float32 product of S_base and {@linkcode deviceWeights}. A weak device's heads count less; the more
 * a device has lost in this layer, the dearer its remaining heads.
 *
 * @example
 * ```ts
 * import { comprehensiveImportance } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const s = comprehensiveImportance(Float32Array.of(1, 1, 1, 1), {
 *   headsPerDevice: [3, 1],
 *   capacities: [3, 1],
 *   rho: 1,
 * });
 * assertEquals([...s], [0.75, 0.75, 0.75, 0.25]);
 * ```
 *
 * @param sBase S_base, [L * H]; H is the sum of `headsPerDevice`, L follows from the length.
 * @param options Devices and parameters.
 * @param prunedPerDevice Npruned[l,m]: heads of layer l that device m has lost, [L * M]. None if left out.
 * @returns S_comp, [L * H].
 * @throws {RangeError} If an option, an importance or a count is out of range.
 * @throws {TypeError} If an argument has the wrong type or length.
 */
export function comprehensiveImportance(
  sBase: Float32Array,
  options: ImportanceOptions,
  prunedPerDevice?: ArrayLike<number>,
): Float32Array {
  const action = "compute the comprehensive importance";
  const weights = deviceWeights(options);
  const devices = options.headsPerDevice.length;
  const heads = options.headsPerDevice.reduce((a, b) => a + b, 0);
  requirePositiveInteger(numberCheck(action), "headsPerDevice (sum)", heads);
  const layers = Math.ceil(sBase.length / heads);
  requireImportance(action, "sBase", sBase, layers * heads);
  if (prunedPerDevice !== undefined && prunedPerDevice.length !== layers * devices) {
    throw new TypeError(
      `Cannot ${action} as "prunedPerDevice" must have ${
        layers * devices
      } entries (layers * devices): current length is ${prunedPerDevice.length}`,
    );
  }
  const owner = deviceOfHead(action, options.headsPerDevice, heads);
  return sBase.map((s, i) => {
    const m = owner[i % heads]!;
    const count = prunedPerDevice?.[Math.floor(i / heads) * devices + m] ?? 0;
    const weight = weights[m]![count];
    if (weight === undefined) {
      throw new RangeError(
        `Cannot ${action} as a device cannot lose more heads than its ${
          options.headsPerDevice[m]
        }: current value is ${count}`,
      );
    }
    return s * weight;
  });
}

/**
 * Greedy pruning (Eq. 30), layer by layer: while the layer's remaining sum of S_base is above tau
 * times its full sum, prune the kept head with the smallest S_comp (the first one on ties), count it
 * for its device and recompute S_comp.
 *
 * Sums are taken anew over the kept heads in index order; a layer whose S_base is all zero loses no
 * head. See the module's page for the arithmetic.
 *
 * @example
 * ```ts
 * import { greedyPrune } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const { mask } = greedyPrune({
 *   sBase: Float32Array.of(0.9, 0.1, 0.2, 0.8),
 *   layers: 1,
 *   heads: 4,
 *   headsPerDevice: [2, 2],
 *   capacities: [1, 1],
 *   tau: 0.9,
 * });
 * assertEquals([...mask], [0, 1, 1, 0]); // 1.9 of 2.0 is above 0.9 * 2.0, 1.7 is not
 * ```
 *
 * @returns The mask, and S_comp as it was before pruning.
 * @throws {RangeError} If an option or an importance is out of range.
 * @throws {TypeError} If an argument has the wrong type or length.
 */
export function greedyPrune(options: GreedyPruneOptions): GreedyPruneResult {
  const { sBase, layers, heads, headsPerDevice, tau = 0.7 } = options;
  const action = "prune greedily";
  const check = numberCheck(action);
  requirePositiveInteger(check, "layers", layers);
  requirePositiveInteger(check, "heads", heads);
  check("tau", tau, "between 0 and 1", (x) => x >= 0 && x <= 1);
  requireImportance(action, "sBase", sBase, layers * heads);
  const weights = deviceWeights(options);
  const owner = deviceOfHead(action, headsPerDevice, heads);

  const mask = new Uint8Array(layers * heads);
  for (let l = 0; l < layers; l++) {
    const importance = sBase.subarray(l * heads, (l + 1) * heads);
    const pruned = mask.subarray(l * heads, (l + 1) * heads);
    const lost = new Uint32Array(weights.length);

    const remaining = () => importance.reduce((sum, s, h) => pruned[h] ? sum : Math.fround(sum + s), 0);
    const limit = Math.fround(Math.fround(tau) * remaining());

    while (remaining() > limit) {
      let smallest = Infinity, head = -1;
      for (let h = 0; h < heads; h++) {
        const m = owner[h]!;
        const sComp = Math.fround(importance[h]! * weights[m]![lost[m]!]!);
        if (!pruned[h] && sComp < smallest) [smallest, head] = [sComp, h];
      }
      if (head < 0) break; // only where float32 overflows
      pruned[head] = 1;
      lost[owner[head]!]!++;
    }
  }
  const sComp = sBase.map((s, i) => s * weights[owner[i % heads]!]![0]!);
  return { mask, sComp };
}

/**
 * The layer-wise rule: a layer whose share of pruned heads is above eta is pruned whole, so that its
 * two round trips disappear. (Our reading of the published parameter study.)
 *
 * @example
 * ```ts
 * import { pruneLayers } from "@edgetuner/core";
 * import { assertEquals } from "@std/assert";
 *
 * const mask = Uint8Array.of(1, 1, 0, 0, 1, 0, 0, 0);
 * assertEquals([...pruneLayers(mask, { heads: 4, eta: 0.4 })], [1, 1, 1, 1, 1, 0, 0, 0]);
 * ```
 *
 * @param mask Head mask, [L * H]; not changed.
 * @param options `heads` is H; `eta`, in [0, 1], is the share that may be pruned: a layer strictly
 * above it is pruned whole, so 1 switches the rule off.
 * @returns A new mask, [L * H].
 * @throws {RangeError} If `eta` is not in [0, 1] or `heads` is not a positive integer.
 * @throws {TypeError} If the mask's length is not a multiple of `heads`.
 */
export function pruneLayers(mask: Uint8Array, options: { heads: number; eta: number }): Uint8Array {
  const { heads, eta } = options;
  const action = "prune layers";
  const check = numberCheck(action);
  requirePositiveInteger(check, "heads", heads);
  check("eta", eta, "between 0 and 1", (x) => x >= 0 && x <= 1);
  if (mask.length % heads !== 0) {
    throw new TypeError(
      `Cannot ${action} as the length of "mask" must be a multiple of ${heads} heads: current length is ${mask.length}`,
    );
  }
  const result = mask.slice();
  for (let start = 0; start < mask.length; start += heads) {
    const layer = result.subarray(start, start + heads);
    const share = layer.reduce((n, z) => n + z, 0) / heads;
    if (share > eta) layer.fill(1);
  }
  return result;
}
