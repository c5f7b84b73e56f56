/**
 * What one step must put on the wire: the formula that a real run's ledger is compared with.
 *
 * @module
 */

import { lowestLayer } from "../lora/head_mask.ts";
import { splitBatch } from "../contracts/micro_batches.ts";
import { f32Codec } from "./codec.ts";
import type { WireCodec } from "../contracts/codec.ts";
import type { FrameKind } from "./frame.ts";

/** What the traffic of a step depends on. */
export interface TrafficShape {
  /** L, layers. */
  readonly layers: number;
  /** H, heads per layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** T, tokens of the step (batch x sequence). */
  readonly tokens: number;
  /** c, number of LoRA targets. */
  readonly targets: number;
  /** LoRA input. */
  readonly mode: "slice" | "full";
  /** Heads of each device, H_m. */
  readonly headsPerDevice: readonly number[];
  /** Number of statistics the pruner asks the devices for. */
  readonly statistics: number;
  /** Head mask z, [L * H], 1 = pruned. */
  readonly mask: Uint8Array;
  /** B, sequences of the step. @default {1} */
  readonly batch?: number;
  /** Micro-batches that the batch, or each part of it, is split into. @default {1} */
  readonly microBatches?: number;
  /** Parts that the batch is split into and that are computed one after the other. @default {1} */
  readonly accumulate?: number;
  /** True if gradients are clipped by their global norm. @default {false} */
  readonly clip?: boolean;
  /** The codec of the run. @default {f32Codec()} */
  readonly codec?: WireCodec;
}

/**
 * Tensor bytes of one tensor-parallel step by kind of message, server and all devices together: E and
 * h_L and dh_L as in a split run, and per device 8 L - 1 times T * d numbers in training, 4 L in
 * evaluation. The output of the last block goes to the data device alone, and nothing is trained below
 * the first one: so an all-reduce has its way back only where something follows.
 *
 * @param shape `devices` is M, devices with a share; the rest as in `TrafficShape`.
 */
export function tensorParallelTraffic(
  shape: Pick<TrafficShape, "layers" | "hidden" | "tokens" | "batch" | "codec"> & {
    readonly devices: number;
    readonly mode: "train" | "evaluate";
  },
): Map<FrameKind, number> {
  const { layers, hidden, tokens, devices, mode, batch = 1, codec = f32Codec() } = shape;
  const wide = codec.byteLength([tokens, hidden]);
  const blocks = 2 * layers;
  const bytes = new Map<FrameKind, number>([
    ["embedding", codec.byteLength([batch, tokens / batch, hidden])],
    ["activation", devices * blocks * wide],
    ["partial", devices * blocks * wide],
    ["hidden", wide],
  ]);
  if (mode === "evaluate") return bytes;
  bytes.set("hiddenGradient", wide);
  bytes.set("activationGradient", devices * blocks * wide);
  bytes.set("partialGradient", devices * (blocks - 1) * wide);
  return bytes;
}

/**
 * Tensor bytes of one pass of generation by kind of message, ES and all devices together: what a forward
 * pass of a step takes for the new tokens of all rows, with every head kept.
 *
 * @param shape `rows` is R, continuations side by side (beams); `length` the new tokens of each: those of
 * the prompt, then one. The rest is as in `TrafficShape`.
 */
export function decodingTraffic(
  shape:
    & Pick<TrafficShape, "layers" | "heads" | "hidden" | "targets" | "mode" | "headsPerDevice" | "codec">
    & {
      readonly rows: number;
      readonly length: number;
    },
): Map<FrameKind, number> {
  const { layers, heads, hidden, targets, mode, headsPerDevice, rows, length, codec = f32Codec() } = shape;
  const tokens = rows * length;
  const headSize = hidden / heads;
  let input = 0, delta = 0;
  for (const count of headsPerDevice) {
    input += codec.byteLength(mode === "slice" ? [count, tokens, headSize] : [tokens, hidden]);
    delta += codec.byteLength([targets, count, tokens, headSize]);
  }
  return new Map<FrameKind, number>([
    ["decode", codec.byteLength([rows, length, hidden])],
    ["mask", layers * heads],
    ["input", layers * input],
    ["delta", layers * delta],
    ["hidden", codec.byteLength([tokens, hidden])],
  ]);
}

/** Tensor bytes of one training step by kind of message, ES and all devices together. */
export function stepTraffic(shape: TrafficShape): Map<FrameKind, number> {
  const { layers, heads, hidden, tokens, targets, mode, headsPerDevice, statistics, mask } = shape;
  const { batch = 1, microBatches = 1, accumulate = 1, clip = false, codec = f32Codec() } = shape;
  const length = tokens / batch;
  const steps = splitBatch({ batch, length }, accumulate);
  const parts = steps.flatMap((part) => splitBatch({ batch: part.batch, length }, microBatches));
  const headSize = hidden / heads;
  const bytes = new Map<FrameKind, number>();
  const add = (kind: FrameKind, amount: number) => bytes.set(kind, (bytes.get(kind) ?? 0) + amount);
  for (const part of steps) {
    add("embedding", codec.byteLength([part.batch, length, hidden]));
    add("mask", layers * heads);
  }
  for (const { rows } of parts) {
    add("hidden", codec.byteLength([rows, hidden]));
    add("hiddenGradient", codec.byteLength([rows, hidden]));
  }
  if (clip) {
    add("squaredNorm", 4 * headsPerDevice.length);
    add("clip", 4 * headsPerDevice.length);
  }
  if (statistics > 0) add("statistics", statistics * layers * heads * 4);
  // Nothing is trained below the lowest layer with a kept head, so it needs no gradient of X.
  const lowest = lowestLayer(mask, heads);
  for (let l = 0; l < layers; l++) {
    let first = l * heads;
    for (const count of headsPerDevice) {
      const kept = mask.subarray(first, first + count).reduce((sum, z) => sum + 1 - z, 0);
      first += count;
      if (kept === 0) continue;
      for (const { rows } of parts) {
        const input = codec.byteLength(mode === "slice" ? [kept, rows, headSize] : [rows, hidden]);
        const delta = codec.byteLength([targets, kept, rows, headSize]);
        add("input", input);
        add("delta", delta);
        add("deltaGradient", delta);
        if (l > lowest) add("inputGradient", input);
      }
    }
  }
  return bytes;
}
