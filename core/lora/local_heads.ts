/**
 * Head modules on the same GPU as the base model, on one or several virtual devices: ServerTuner,
 * and the reference that networked runs are compared with.
 *
 * @module
 */

import type { HeadPort, HeadStatistics, HeadStep, LayerHeads, PendingSum } from "../contracts/ports.ts";
import { clipFactor, globalNorm } from "./clipping.ts";
import type { HeadModules } from "./head_modules.ts";
import { DEVICE_STATISTICS, type DeviceStatistic, type StatisticName } from "../contracts/pruner.ts";
import { type MicroBatch, WHOLE_STEP } from "../contracts/micro_batches.ts";
import { gatherHeadColumns, scatterAddHeadColumns, type Tensor } from "@edgetuner/kernels";
import { targetColumns } from "./target_columns.ts";
import { keptHeads, maskOfRange, putRange } from "./head_mask.ts";
import { requireFiniteNorm } from "./finite.ts";

/**
 * Head modules of virtual devices in this process, on the engine of the base model.
 *
 * @category Adapters
 */
export class LocalHeads implements HeadPort, Disposable {
  readonly #devices: readonly HeadModules[];
  readonly #needs: readonly StatisticName[];
  readonly #clipNorm: number | null;
  #step: HeadStep | null = null;

  /**
   * Joins virtual devices to one port.
   *
   * @param devices One per virtual device, together owning every head once; disposed with this.
   * @param needs Statistics that `endStep` returns. @default {[]}
   * @param clipNorm Largest global norm of a step's gradients, see `RunSettings`. @default {null}
   */
  constructor(
    devices: readonly HeadModules[],
    needs: readonly StatisticName[] = [],
    clipNorm: number | null = null,
  ) {
    this.#devices = devices;
    this.#needs = needs;
    this.#clipNorm = clipNorm;
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
      backward: (layer, dqkv, options) => this.#backward(layer, dqkv, { ...options, microBatch: part.index }),
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
    const parts = this.#parts(layer).map(({ device, kept, global, heads }) => {
      const { input, owned } = device.input.gather(x, { first: 0, headSize: device.inputs, heads });
      const deltas = device.forward(layer, kept, input, {
        step,
        mode,
        ownsInput: owned,
        microBatch: at,
        part: accumulation.index,
      });
      return { device, global, deltas };
    });
    if (parts.length === 0) return null;
    return {
      addTo: (qkv) => {
        for (const { device, global, deltas } of parts) {
          const { headSize, options: { heads: count, lora } } = device;
          deltas.forEach((delta, k) => {
            const { first, passes } = targetColumns(lora.targets[k]!, global, {
              heads: count,
              headSize,
              columns: qkv.columns,
            });
            for (const pass of passes) {
              scatterAddHeadColumns(delta, qkv, { first, headSize, heads: device.headList(pass) });
            }
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
    { needsInput, microBatch }: { readonly needsInput: boolean; readonly microBatch?: number },
  ): PendingSum | null {
    const { step } = this.#current();
    const parts = this.#parts(layer).map(({ device, global, heads }) => {
      const { headSize, options: { heads: count, lora } } = device;
      const dDeltas = lora.targets.map((target) => {
        const at = targetColumns(target, global, { heads: count, headSize, columns: dqkv.columns });
        return gatherHeadColumns(dqkv, { first: at.first, headSize, heads: device.headList(at.heads) });
      });
      const dx = device.backward(layer, dDeltas, {
        step,
        needsInput,
        ...(microBatch !== undefined && { microBatch }),
      });
      return { device, heads, dx };
    });
    if (!needsInput || parts.length === 0) return null;
    return {
      addTo: (target) => {
        for (const { device, heads, dx } of parts) {
          if (dx === null) continue;
          device.input.addGradient(dx, target, { first: 0, headSize: device.inputs, heads });
          dx.dispose();
        }
        return Promise.resolve();
      },
    };
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

  /** Frees the head modules. */
  [Symbol.dispose](): void {
    for (const device of this.#devices) device[Symbol.dispose]();
  }

  #current(): HeadStep {
    if (this.#step === null) {
      throw new TypeError("Cannot use head modules as a step must have begun: none has");
    }
    return this.#step;
  }

  #parts(layer: number) {
    const { mask } = this.#current();
    return this.#devices.flatMap((device) => {
      const { range, heads: perLayer } = device.options;
      const kept = keptHeads(mask, perLayer, layer, range);
      if (kept.length === 0) return [];
      const global = kept.map((h) => range.first + h);
      return [{ device, kept, global, heads: device.headList(global) }];
    });
  }
}
