/**
 * Softmax cross-entropy with label smoothing and per-row weights, over the vocabulary in chunks.
 *
 * @module
 */

import backwardSource from "./cross_entropy_backward.wgsl" with { type: "text" };
import lossSource from "./cross_entropy_loss.wgsl" with { type: "text" };
import statisticsSource from "./cross_entropy_statistics.wgsl" with { type: "text" };
import { defineKernel } from "../engine/kernel.ts";
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Tensor } from "../engine/tensor.ts";
import { VEC4 } from "../prelude/mod.ts";

const statisticsKernel = defineRowKernel({
  name: "cross_entropy_statistics",
  file: "cross_entropy/cross_entropy_statistics.wgsl",
  source: statisticsSource,
  preludes: [VEC4],
  bindings: ["logits", "targets", "statistics"],
  parameters: ["rows", "columns", "pitch4", "first"],
});

const lossKernel = defineKernel({
  name: "cross_entropy_loss",
  file: "cross_entropy/cross_entropy_loss.wgsl",
  source: lossSource,
  bindings: ["statistics", "weights", "losses"],
  parameters: ["rows", "pitch", "vocabulary", "smoothing"],
});

const backwardKernel = defineKernel({
  name: "cross_entropy_backward",
  file: "cross_entropy/cross_entropy_backward.wgsl",
  source: backwardSource,
  preludes: [VEC4],
  bindings: ["logits", "targets", "weights", "statistics"],
  parameters: [
    "rows",
    "columns",
    "pitch4",
    "first",
    "vocabulary",
    "smoothing",
  ],
});

/** Some columns of the logits. */
export interface LogitsChunk {
  /** [rows, columns] */
  readonly logits: Tensor;
  /** Vocabulary entry of the first column. */
  readonly first: number;
}

/** Arguments of `crossEntropy`. */
export interface CrossEntropyOptions {
  /** The logits, in chunks that cover the vocabulary in order. Overwritten by the gradient if `gradient` is true. */
  readonly chunks: readonly LogitsChunk[];
  /** [1, rows], u32: the target of each row. */
  readonly targets: Tensor;
  /** [1, rows]: factor of each row's loss, such as mask / (sum of the mask + 1e-4). */
  readonly weights: Tensor;
  /** V, number of vocabulary entries. */
  readonly vocabulary: number;
  /** Label smoothing s, in [0, 1). */
  readonly smoothing: number;
  /** Replace the logits by their gradient. */
  readonly gradient: boolean;
}

/**
 * Loss of each row, weight * ((1 - s) * nll + s * mean over the vocabulary of -log p), and
 * optionally its gradient in place of the logits.
 *
 * @returns Losses [1, rows]; the loss is their sum.
 */
export function crossEntropy(options: CrossEntropyOptions): Tensor {
  const { chunks, targets, weights, vocabulary, smoothing } = options;
  const rows = targets.columns;
  const { engine } = targets;
  using statistics = engine.tensor(rows, 4, "cross-entropy statistics");
  for (const { logits, first } of chunks) {
    engine.dispatch(statisticsKernel[engine.adapterClass], {
      bindings: { logits, targets, statistics },
      parameters: { rows, columns: logits.columns, pitch4: logits.pitch / 4, first },
      workgroups: [Math.ceil(rows / ROWS_PER_WORKGROUP[engine.adapterClass])],
    });
  }
  const losses = engine.tensor(1, rows, "losses");
  engine.dispatch(lossKernel, {
    bindings: { statistics, weights, losses },
    parameters: { rows, pitch: losses.pitch, vocabulary, smoothing },
    workgroups: [Math.ceil(losses.pitch / 64)],
  });
  if (options.gradient) {
    for (const { logits, first } of chunks) {
      engine.dispatch(backwardKernel, {
        bindings: { logits, targets, weights, statistics },
        parameters: { rows, columns: logits.columns, pitch4: logits.pitch / 4, first, vocabulary, smoothing },
        workgroups: [Math.ceil(logits.pitch / 256), rows],
      });
    }
  }
  return losses;
}
