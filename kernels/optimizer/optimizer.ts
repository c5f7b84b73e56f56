/**
 * AdamW, gradient norms and clipping.
 *
 * @module
 */

import adamwSource from "./adamw.wgsl" with { type: "text" };
import changeSource from "./segment_change.wgsl" with { type: "text" };
import clipSource from "./clip_scale.wgsl" with { type: "text" };
import fadeSource from "./fade_segments.wgsl" with { type: "text" };
import normsSource from "./segment_norms.wgsl" with { type: "text" };
import type { Engine } from "../engine/engine.ts";
import { defineKernel } from "../engine/kernel.ts";
import { defineRowKernel, gridOf, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import type { ArenaMatrix } from "../lora/lora.ts";
import { GRID, ROW_ENTRIES, VEC4 } from "../prelude/mod.ts";

const adamwKernel = defineKernel({
  name: "adamw",
  file: "optimizer/adamw.wgsl",
  source: adamwSource,
  preludes: [GRID],
  bindings: ["parameters", "gradients", "m", "v", "control", "clip"],
  parameters: [
    "count4",
    "segment4",
    "first4",
    "rate",
    "beta1",
    "beta2",
    "epsilon",
    "decay",
  ],
});

const normsKernel = defineRowKernel({
  name: "segment_norms",
  file: "optimizer/segment_norms.wgsl",
  source: normsSource,
  preludes: [...ROW_ENTRIES, VEC4],
  bindings: ["x", "control", "out"],
  parameters: [
    "segments",
    "segment4",
    "count4",
    "first",
    "root",
    "scale",
  ],
});

const changeKernel = defineRowKernel({
  name: "segment_change",
  file: "optimizer/segment_change.wgsl",
  source: changeSource,
  preludes: [...ROW_ENTRIES, VEC4],
  bindings: ["x", "before", "control", "out"],
  parameters: ["segments", "segment4"],
});

const fadeKernel = defineKernel({
  name: "fade_segments",
  file: "optimizer/fade_segments.wgsl",
  source: fadeSource,
  preludes: [GRID],
  bindings: ["parameters", "control"],
  parameters: ["segment4", "first4", "row", "size4", "count4", "factor"],
});

const clipKernel = defineKernel({
  name: "clip_scale",
  file: "optimizer/clip_scale.wgsl",
  source: clipSource,
  bindings: ["squares", "clip"],
  parameters: ["count", "limit"],
});

/** AdamW's settings. */
export interface AdamWSettings {
  /** Learning rate of this step. */
  readonly rate: number;
  /** Decay of the first moment. */
  readonly beta1: number;
  /** Decay of the second moment. */
  readonly beta2: number;
  /** Added to the root of the second moment. */
  readonly epsilon: number;
  /** Decoupled weight decay. */
  readonly decay: number;
}

/** Tensors of one AdamW update, all of the same shape. */
export interface AdamWTensors {
  /** Updated in place. */
  readonly parameters: Tensor;
  /** Read. */
  readonly gradients: Tensor;
  /** First moment, updated in place. */
  readonly m: Tensor;
  /** Second moment, updated in place. */
  readonly v: Tensor;
}

/**
 * Control values of segments: [active, 1 - beta1^t, 1 - beta2^t, 0] each.
 *
 * @param counts Updates of each segment, this one included; 0 = not active in this step.
 */
export function adamwControl(counts: ArrayLike<number>, beta1: number, beta2: number): Float32Array {
  const control = new Float32Array(counts.length * 4);
  for (let s = 0; s < counts.length; s++) {
    const t = counts[s]!;
    control.set(t === 0 ? [0, 1, 1, 0] : [1, 1 - beta1 ** t, 1 - beta2 ** t, 0], s * 4);
  }
  return control;
}

/** What an update does with each segment. */
export interface AdamWSegments {
  /** Elements per segment; a multiple of 4. */
  readonly segment: number;
  /** [segments, 4], see `adamwControl`. */
  readonly control: Tensor;
  /** [1, 4] of `clipScale`. @default {no clipping} */
  readonly clip?: Tensor | undefined;
}

/**
 * One AdamW update (Loshchilov and Hutter, 2019), per segment.
 *
 * @param tensors Parameters, gradients and moments of one shape.
 * @param segments Which segments are updated, and the factor of the gradients.
 * @param settings Learning rate and the rest.
 */
export function adamw(
  { parameters, gradients, m, v }: AdamWTensors,
  { segment, control, clip = parameters.engine.unitScale }: AdamWSegments,
  settings: AdamWSettings,
): void {
  const { engine } = parameters;
  const windowsOf = { gradients: gradients.windows(), m: m.windows(), v: v.windows() };
  parameters.windows().forEach((window, w) => {
    const count4 = window.rows * parameters.pitch / 4;
    engine.dispatch(adamwKernel, {
      bindings: {
        parameters: window,
        gradients: windowsOf.gradients[w]!,
        m: windowsOf.m[w]!,
        v: windowsOf.v[w]!,
        control,
        clip,
      },
      parameters: {
        count4,
        segment4: segment / 4,
        first4: window.row * parameters.pitch / 4,
        ...settings,
      },
      workgroups: gridOf(count4, 64),
    });
  });
}

/** Options of `fadeSegments`. */
export interface FadeOptions {
  /** Where the matrices lie in a segment. */
  readonly matrices: readonly ArenaMatrix[];
  /** [segments, 4], see `adamwControl`: segments that are active stay. */
  readonly control: Tensor;
  /** What the numbers are multiplied by. */
  readonly factor: number;
}

/** Multiplies matrices of the segments that are not active, in place; `x` is [segments, segment]. */
export function fadeSegments(x: Tensor, { matrices, control, factor }: FadeOptions): void {
  const { engine } = x;
  for (const { rows, columns, first, segment } of matrices) {
    const size4 = rows * roundUp4(columns) / 4;
    x.windows().forEach((window) => {
      const count4 = window.rows * size4;
      engine.dispatch(fadeKernel, {
        bindings: { parameters: window, control },
        parameters: { segment4: segment / 4, first4: first / 4, row: window.row, size4, count4, factor },
        workgroups: gridOf(count4, 64),
      });
    });
  }
}

/** Options of `segmentNorms`. */
export interface SegmentNormsOptions {
  /** Elements per segment; a multiple of 4. */
  readonly segment: number;
  /** [segments, 4]: where the first value is 0, 0 is written. */
  readonly control: Tensor;
  /** Factor of the norms. @default {1} */
  readonly scale?: number;
}

/** Frobenius norm of every segment of `x` [1, segments * segment]; returns [1, segments]. */
export function segmentNorms(x: Tensor, options: SegmentNormsOptions): Tensor {
  const { engine } = x;
  const { segment, control, scale = 1 } = options;
  const segments = control.rows;
  const out = engine.zeros(1, segments, "segment norms"); // the kernel writes no padding
  engine.dispatch(normsKernel[engine.adapterClass], {
    bindings: { x, control, out },
    parameters: { segments, segment4: segment / 4, count4: x.bytes / 16, first: 0, root: 1, scale },
    workgroups: [Math.ceil(segments / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
  return out;
}

/**
 * Relative change of every segment, ||x - before||_F / ||x||_F.
 *
 * @param x [1, segments * segment].
 * @param before As `x`, earlier.
 * @param options Segment size and which segments are active; where one is not, or is all zero, 0 is written.
 * @returns [1, segments].
 */
export function segmentChange(
  x: Tensor,
  before: Tensor,
  options: Omit<SegmentNormsOptions, "scale">,
): Tensor {
  const { engine } = x;
  const { segment, control } = options;
  const segments = control.rows;
  const out = engine.zeros(1, segments, "segment changes"); // the kernel writes no padding
  engine.dispatch(changeKernel[engine.adapterClass], {
    bindings: { x, before, control, out },
    parameters: { segments, segment4: segment / 4 },
    workgroups: [Math.ceil(segments / ROWS_PER_WORKGROUP[engine.adapterClass])],
  });
  return out;
}

/** Elements per partial sum of the global norm. */
const PARTIAL = 4096;

/**
 * Factor that clips the global norm of all gradients to `limit`.
 *
 * @returns [1, 4]: the factor, then the norm before clipping. Pass it to `adamw`.
 */
export function clipScale(engine: Engine, gradients: readonly Tensor[], limit: number): Tensor {
  const parts = gradients.flatMap((g) => g.windows());
  const partials = parts.map((part) => Math.ceil(part.bytes / 4 / PARTIAL));
  const count = partials.reduce((a, b) => a + b, 0);
  using squares = engine.tensor(1, count, "sums of squares");
  using control = engine.upload(
    new Float32Array(Math.max(...partials) * 4).fill(1),
    Math.max(...partials),
    4,
    "all segments active",
  );
  let first = 0;
  parts.forEach((part, i) => {
    const segments = partials[i]!;
    engine.dispatch(normsKernel[engine.adapterClass], {
      bindings: { x: part, control, out: squares },
      parameters: { segments, segment4: PARTIAL / 4, count4: part.bytes / 16, first, root: 0, scale: 1 },
      workgroups: [Math.ceil(segments / ROWS_PER_WORKGROUP[engine.adapterClass])],
    });
    first += segments;
  });
  const clip = engine.tensor(1, 4, "clip factor");
  engine.dispatch(clipKernel, {
    bindings: { squares, clip },
    parameters: { count, limit },
    workgroups: [1],
  });
  return clip;
}
