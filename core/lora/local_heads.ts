/**
 * Head modules on the same GPU as the base model, on one or several virtual devices: ServerTuner,
 * and the reference that networked runs are compared with.
 *
 * @module
 */

import { shapeForDevices } from "../contracts/model_shape.ts";
import type { HeadPort, HeadStatistics, HeadStep, LayerHeads, PendingSum } from "../contracts/ports.ts";
import { clipFactor, globalNorm } from "./clipping.ts";
import type { HeadModules } from "./head_modules.ts";
import { DEVICE_STATISTICS, type DeviceStatistic, type StatisticName } from "../contracts/pruner.ts";
import { type MicroBatch, WHOLE_STEP } from "../contracts/micro_batches.ts";
import type { Tensor } from "@edgetuner/kernels";
import { divideInput, type HeadShare, joinInput } from "./_divided_input.ts";
import type { EdgeHeads, EdgePlace, GatheredInput } from "./edge_heads.ts";
import { keptHeads, maskOfRange, putRange } from "./head_mask.ts";
import { requireFiniteNorm } from "./finite.ts";
import type { HeadProjections } from "./projections.ts";

/** A device's kept heads of a layer. */
interface LocalShare {
  readonly device: HeadModules;
  /** The kept heads, as indices within its range. */
  readonly kept: readonly number[];
  readonly place: EdgePlace;
}

function headShares(shares: readonly LocalShare[]): HeadShare[] {
  let before = 0;
  return shares.map(({ kept: { length: heads } }) => {
    before += heads;
    return { heads, before: before - heads };
  });
}

/** The place of the kept heads of all devices together. */
function placeOfAll(shares: readonly LocalShare[]): EdgePlace {
  const { place } = shares[0]!;
  const list = shares.flatMap(({ place }) => place.kept.list);
  return { ...place, kept: { list, upload: place.kept.upload } };
}

/** Options of `LocalHeads`. */
export interface LocalHeadsOptions {
  /** Frozen projections, where the LoRA settings ask for such from the base model. */
  readonly projections?: HeadProjections | undefined;
  /** True if the head modules are not to be disposed with the port. @default {false} */
  readonly keepsModules?: boolean;
}

/**
 * Head modules of virtual devices in this process, on the engine of the base model.
 *
 * @category Adapters
 */
export class LocalHeads implements HeadPort, Disposable {
  readonly #devices: readonly HeadModules[];
  readonly #needs: readonly StatisticName[];
  readonly #clipNorm: number | null;
  readonly #keepsModules: boolean;
  readonly #projections: HeadProjections | undefined;
  #edge: EdgeHeads | null = null;
  #step: HeadStep | null = null;

  /**
   * Joins virtual devices to one port.
   *
   * @param devices One per virtual device, together owning every head once; disposed with this.
   * @param needs Statistics that `endStep` returns. @default {[]}
   * @param clipNorm Largest global norm of a step's gradients, see `RunSettings`. @default {null}
   * @param options Projections, and whether the head modules are kept. @default {{}}
   */
  constructor(
    devices: readonly HeadModules[],
    needs: readonly StatisticName[] = [],
    clipNorm: number | null = null,
    { projections, keepsModules = false }: LocalHeadsOptions = {},
  ) {
    this.#devices = devices;
    this.#needs = needs;
    this.#clipNorm = clipNorm;
    this.#projections = projections;
    this.#keepsModules = keepsModules;
  }

  /** The virtual devices. */
  get devices(): readonly HeadModules[] {
    return this.#devices;
  }

  /** Begins a step. */
  beginStep(step: HeadStep): Promise<void> {
    this.#step = step;
    return Promise.resolve();
  }

  /** The head modules for one micro-batch. */
  microBatch(part: MicroBatch): LayerHeads {
    return {
      forward: (layer, x) => this.#forward(layer, x, part),
      backward: (layer, dqkv, options) => this.#backward(layer, dqkv, { ...options, microBatch: part }),
    };
  }

  /** Computes the Deltas of a layer's kept heads. */
  forward(layer: number, x: Tensor): PendingSum | null {
    return this.#forward(layer, x, { index: 0, firstRow: 0 });
  }

  /** Computes the gradients of a layer's kept heads. */
  backward(layer: number, dqkv: Tensor, options: { readonly needsInput: boolean }): PendingSum | null {
    return this.#backward(layer, dqkv, options);
  }

  #forward(layer: number, x: Tensor, microBatch: Pick<MicroBatch, "index" | "firstRow">): PendingSum | null {
    const { step, mode, accumulation = WHOLE_STEP } = this.#current();
    const at = { index: microBatch.index, firstRow: accumulation.firstRow + microBatch.firstRow };
    const shares = this.#parts(layer, at.firstRow);
    const inputs = this.#inputs(x, shares);
    const parts = shares.map(({ device, kept, place }, i) => {
      const { input, owned } = inputs[i]!;
      const deltas = device.forward(layer, kept, input, {
        step,
        mode,
        ownsInput: owned,
        microBatch: at,
        part: accumulation.index,
      });
      return { device, place, deltas };
    });
    if (parts.length === 0) return null;
    return {
      addTo: (qkv) => {
        for (const { device, place, deltas } of parts) {
          deltas.forEach((delta, k) => {
            this.#edgeOf(device).addDeltas(delta, k, qkv, place);
            delta.dispose();
          });
        }
        return Promise.resolve();
      },
    };
  }

  #backward(
    layer: number,
    dqkv: Tensor,
    { needsInput, microBatch }: {
      readonly needsInput: boolean;
      readonly microBatch?: Pick<MicroBatch, "index" | "firstRow">;
    },
  ): PendingSum | null {
    const { step, accumulation = WHOLE_STEP } = this.#current();
    const firstRow = accumulation.firstRow + (microBatch?.firstRow ?? 0);
    const shares = this.#parts(layer, firstRow);
    const parts = shares.map(({ device, place }) => {
      const edge = this.#edgeOf(device);
      const dDeltas = device.options.lora.targets.map((_, k) => edge.deltaGradients(dqkv, k, place));
      const dx = device.backward(layer, dDeltas, {
        step,
        needsInput,
        ...(microBatch !== undefined && { microBatch: microBatch.index }),
      });
      return dx === null ? [] : [dx];
    }).flat();
    if (!needsInput || parts.length === 0) return null;
    return {
      addTo: (target) => {
        this.#addGradients(parts, target, shares);
        for (const dx of parts) dx.dispose();
        return Promise.resolve();
      },
    };
  }

  /** What each device reads. */
  #inputs(x: Tensor, shares: readonly LocalShare[]): GatheredInput[] {
    const [first] = shares;
    if (first === undefined) return [];
    const edge = this.#edgeOf(first.device);
    const { input: { projects, inputParts }, size } = first.device;
    if (!projects || shares.length === 1) return shares.map(({ place }) => edge.gather(x, place));
    using whole = edge.gather(x, placeOfAll(shares)).input;
    return divideInput(whole, headShares(shares), inputParts(size)).map((input) => ({ input, owned: true }));
  }

  /** Adds the gradients of what they read to that of X. */
  #addGradients(parts: readonly Tensor[], target: Tensor, shares: readonly LocalShare[]): void {
    const { device } = shares[0]!;
    const edge = this.#edgeOf(device);
    const { input: { projects, inputParts }, size } = device;
    if (!projects || shares.length === 1) {
      for (const [i, { place }] of shares.entries()) edge.addGradient(parts[i]!, target, place);
      return;
    }
    using whole = joinInput(parts, headShares(shares), inputParts(size));
    edge.addGradient(whole, target, placeOfAll(shares));
  }

  /** Updates the kept heads; after a probe only measures their gradients. */
  async endStep(): Promise<HeadStatistics> {
    const { step, mode, mask } = this.#current();
    const { heads, layers } = this.#devices[0]!.options;
    const whole: Partial<Record<DeviceStatistic, Float32Array>> = {};
    const maskOf = ({ options: { range } }: HeadModules) => maskOfRange(mask, heads, range);
    let clip = 1;
    let norm: Pick<HeadStatistics, "globalNorm"> = {};
    if (this.#clipNorm !== null && mode === "train") {
      const squares = await Promise.all(this.#devices.map((d) => d.squaredGradientNorm(maskOf(d))));
      for (const square of squares) requireFiniteNorm(step, square);
      clip = clipFactor(squares, this.#clipNorm);
      norm = { globalNorm: globalNorm(squares) };
    }
    for (const device of this.#devices) {
      const { first, count } = device.options.range;
      const part: HeadStatistics = mode === "probe"
        ? { gradientNorm: await device.gradientNorms() }
        : await device.update(step, maskOf(device), this.#needs, clip);
      for (const name of DEVICE_STATISTICS) {
        const values = part[name];
        if (values === undefined) continue;
        putRange(values, whole[name] ??= new Float32Array(layers * heads), heads, { first, count });
      }
    }
    return { ...whole, ...norm };
  }

  /** Frees the head modules, unless they are kept, and the projections. */
  [Symbol.dispose](): void {
    this.#edge?.[Symbol.dispose]();
    this.#edge = null;
    if (this.#keepsModules) return;
    for (const device of this.#devices) device[Symbol.dispose]();
  }

  /** The edge server's part, made when it is first needed. */
  #edgeOf({ engine, input, options }: HeadModules): EdgeHeads {
    const { lora, seed } = options;
    const projections = this.#projections;
    return this.#edge ??= input.edge({ engine, lora, model: shapeForDevices(options), seed, projections });
  }

  #current(): HeadStep {
    if (this.#step === null) {
      throw new TypeError("Cannot use head modules as a step must have begun: none has");
    }
    return this.#step;
  }

  #parts(layer: number, firstRow: number): LocalShare[] {
    const { mask, step, mode } = this.#current();
    return this.#devices.flatMap((device) => {
      const { range, heads: perLayer } = device.options;
      const kept = keptHeads(mask, perLayer, layer, range);
      if (kept.length === 0) return [];
      const list = kept.map((h) => range.first + h);
      const upload = (heads: readonly number[]) => device.headList(heads);
      const place: EdgePlace = { layer, kept: { list, upload }, step, mode, firstRow };
      return [{ device, kept, place }];
    });
  }
}
