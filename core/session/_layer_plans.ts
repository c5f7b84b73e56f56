/**
 * The kept heads of each layer in a step, device by device, with their lists on the GPU.
 *
 * n kept heads of a layer.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import { keptHeads } from "../lora/head_mask.ts";
import type { HeadMember } from "./head_members.ts";

/** The kept heads of one device in a layer. */
export interface DeviceShare {
  readonly device: HeadMember;
  /** Number of kept heads, n_m. */
  readonly kept: number;
  /** Kept heads of the devices before it. */
  readonly before: number;
}

/** What of a layer is kept, and on which devices. */
export interface LayerPlan {
  /** The devices with kept heads. */
  readonly shares: readonly DeviceShare[];
  /** All kept heads of the layer, ascending. */
  readonly list: readonly number[];
  /** [1, n]: the same. */
  readonly heads: Tensor;
  /** [1, n]: other lists that follow from them, for keys and values that heads share and for projections. */
  readonly others: Map<string, Tensor>;
  /** n */
  readonly kept: number;
}

/**
 * Joins the devices' answers, or one target of them, to head-major blocks.
 *
 * @param plan The layer.
 * @param answers Of each device [c, n_m, T, columns].
 * @param target Which target.
 * @param perHead T * columns, numbers of a head.
 * @returns [n, T, columns].
 */
export function joinBlocks(
  { shares, kept: all }: LayerPlan,
  answers: readonly Float32Array[],
  target: number,
  perHead: number,
): Float32Array {
  const joined = new Float32Array(all * perHead);
  shares.forEach(({ kept, before }, i) => {
    const size = kept * perHead;
    joined.set(answers[i]!.subarray(target * size, (target + 1) * size), before * perHead);
  });
  return joined;
}

/** The plans of a step. */
export class LayerPlans {
  readonly #engine: Engine;
  readonly #heads: number;
  readonly #devices: readonly HeadMember[];
  readonly #plans = new Map<number, LayerPlan | null>();

  /** For `heads` heads of a layer on these devices, in order of their heads. */
  constructor(engine: Engine, heads: number, devices: readonly HeadMember[]) {
    this.#engine = engine;
    this.#heads = heads;
    this.#devices = devices;
  }

  /** The plan of a layer with a head mask [L * H]; `null` if no head is kept. */
  of(layer: number, mask: Uint8Array): LayerPlan | null {
    const known = this.#plans.get(layer);
    if (known !== undefined) return known;
    const all: number[] = [];
    const shares: DeviceShare[] = [];
    for (const device of this.#devices) {
      const { first, count } = device.range;
      const kept = keptHeads(mask, this.#heads, layer, { first, count });
      if (kept.length === 0) continue;
      shares.push({ device, kept: kept.length, before: all.length });
      all.push(...kept.map((h) => first + h));
    }
    const plan = all.length === 0
      ? null
      : { shares, kept: all.length, list: all, heads: this.#upload(all), others: new Map() };
    this.#plans.set(layer, plan);
    return plan;
  }

  /** [1, n]: a list of a layer's heads or of what follows from them; uploaded once in a step. */
  listed(plan: LayerPlan, list: readonly number[]): Tensor {
    if (list === plan.list) return plan.heads;
    const key = list.join();
    let tensor = plan.others.get(key);
    if (tensor === undefined) plan.others.set(key, tensor = this.#upload(list));
    return tensor;
  }

  /** Another step begins. */
  forget(): void {
    for (const plan of this.#plans.values()) {
      for (const tensor of plan === null ? [] : [plan.heads, ...plan.others.values()]) tensor.dispose();
    }
    this.#plans.clear();
  }

  #upload(heads: readonly number[]): Tensor {
    return this.#engine.upload(Uint32Array.from(heads), 1, heads.length, "kept heads");
  }
}
