/**
 * LoRA dropout with a counter-based generator.
 *
 * @module
 */

import source from "./dropout.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";

const dropoutKernel = defineKernel({
  name: "dropout",
  file: "dropout/dropout.wgsl",
  source,
  bindings: ["x", "heads", "out"],
  parameters: [
    "length",
    "pitch4",
    "threshold",
    "key0",
    "key1",
    "first_row",
    "scale",
  ],
});

/** Which mask is drawn: equal keys give equal masks on every device. */
export interface DropoutKey {
  /** Share of elements dropped, in [0, 1). */
  readonly rate: number;
  /** Seed of the run. */
  readonly seed: number;
  /** Step of the run. */
  readonly step: number;
  /** Layer of the model. */
  readonly layer: number;
  /** Row of the batch at which each slot's rows start, where `x` is part of a batch. @default {0} */
  readonly firstRow?: number;
}

/** Mixes two 32-bit integers (the finaliser of MurmurHash3 over their combination). */
function mix(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * x * keep / (1 - rate). Its own backward pass.
 *
 * @param x [slots * T, columns], head-major.
 * @param heads [1, slots], u32: the head of each slot; one slot holding 0 for inputs with all columns.
 * @param key Which mask is drawn.
 * @throws {RangeError} If the rate is not in [0, 1).
 */
export function dropout(x: Tensor, heads: Tensor, key: DropoutKey): Tensor {
  if (!(key.rate >= 0 && key.rate < 1)) {
    throw new RangeError(
      `Cannot drop out as the rate must be at least 0 and below 1: current value is ${key.rate}`,
    );
  }
  const { engine, pitch } = x;
  const slots = heads.columns;
  const length = x.rows / slots;
  const out = engine.tensor(x.rows, x.columns, "dropout");
  engine.dispatch(dropoutKernel, {
    bindings: { x, heads, out },
    parameters: {
      length,
      pitch4: pitch / 4,
      threshold: Math.floor(key.rate * 2 ** 32),
      key0: mix(key.seed >>> 0, key.layer),
      key1: mix(key.step, key.seed >>> 0),
      first_row: key.firstRow ?? 0,
      scale: 1 / (1 - key.rate),
    },
    workgroups: [Math.ceil(pitch / 32), Math.ceil(length / 8), slots],
  });
  return out;
}
