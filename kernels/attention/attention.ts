/**
 * Multi-head attention, causal or not, as batched matrix products around a row-wise softmax.
 *
 * B = batch, T = tokens of a sequence, H = heads, D = head size; slots = T rounded up to 4.
 *
 * @module
 */

import backwardSource from "./causal_softmax_backward.wgsl" with { type: "text" };
import softmaxSource from "./causal_softmax.wgsl" with { type: "text" };
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import { type BatchLayout, matmul } from "../matmul/matmul.ts";

const softmaxKernel = defineRowKernel({
  name: "causal_softmax",
  source: softmaxSource,
  bindings: ["write", "write"],
  parameters: [
    ["rows", "u32"],
    ["length", "u32"],
    ["heads", "u32"],
    ["slots4", "u32"],
    ["log_pitch", "u32"],
    ["causal", "u32"],
  ],
});

const softmaxBackwardKernel = defineRowKernel({
  name: "causal_softmax_backward",
  source: backwardSource,
  bindings: ["write", "write", "read", "read", "read"],
  parameters: [
    ["rows", "u32"],
    ["length", "u32"],
    ["heads", "u32"],
    ["slots4", "u32"],
    ["log_pitch", "u32"],
    ["head_size4", "u32"],
    ["scale", "f32"],
    ["causal", "u32"],
  ],
});

/** Shape of an attention. */
export interface AttentionShape {
  /** B, sequences. */
  readonly batch: number;
  /** T, tokens of each sequence. */
  readonly length: number;
  /** H, heads. */
  readonly heads: number;
  /** False if a token sees those after it too, as in an encoder. @default {true} */
  readonly causal?: boolean;
}

/** What the forward pass returns. */
export interface AttentionResult {
  /** [B * T, H * D] */
  readonly output: Tensor;
  /** [B * T, H]: logarithms of the softmax sums, for the backward pass. */
  readonly logSums: Tensor;
}

interface Plan {
  readonly d: number;
  readonly headSize: number;
  readonly slots: number;
  readonly scale: number;
  readonly scores: BatchLayout;
}

function plan(qkv: Tensor, shape: AttentionShape): Plan {
  const { batch, length, heads, causal = true } = shape;
  const d = qkv.columns / 3;
  const headSize = d / heads;
  if (!Number.isInteger(headSize) || headSize % 4 !== 0) {
    throw new TypeError(
      `Cannot attend as the head size must be a multiple of 4: qkv has ${qkv.columns} columns, that is ${headSize} per head`,
    );
  }
  if (qkv.rows !== batch * length) {
    throw new TypeError(
      `Cannot attend as qkv must have batch * length = ${batch * length} rows: it has ${qkv.rows}`,
    );
  }
  const slots = roundUp4(length);
  return {
    d,
    headSize,
    slots,
    scale: 1 / Math.sqrt(headSize),
    scores: {
      groups: batch,
      heads,
      m: length,
      n: length,
      k: headSize,
      a: { first: 0, stride: headSize },
      b: { first: d, stride: headSize },
      c: { first: 0, stride: slots },
      causal: causal ? "skipUpper" : "none",
    },
  };
}

function rowGroups(rows: number, perGroup: number): [number, number] {
  const groups = Math.ceil(rows / perGroup);
  return [Math.min(groups, 32_768), Math.ceil(groups / 32_768)];
}

/**
 * softmax(Q K^T / sqrt(D), causal if asked for) V for every head.
 *
 * @param qkv [B * T, 3 * H * D]: Q, K and V side by side, heads side by side in each.
 * @param shape Sequences, tokens and heads.
 * @throws {TypeError} If the shape does not fit or D is not a multiple of 4.
 */
export function attention(qkv: Tensor, shape: AttentionShape): AttentionResult {
  const { engine } = qkv;
  const { batch, length, heads, causal = true } = shape;
  const { d, headSize, slots, scale, scores: layout } = plan(qkv, shape);
  using scores = engine.tensor(batch * length, heads * slots, "attention scores");
  matmul(qkv, qkv, { transposeB: true, alpha: scale, out: scores, batch: layout });
  const logSums = engine.tensor(batch * length, heads, "attention log sums");
  const rows = batch * length * heads;
  engine.dispatch(softmaxKernel[engine.adapterClass], {
    bindings: [scores, logSums],
    parameters: { rows, length, heads, slots4: slots / 4, log_pitch: logSums.pitch, causal: Number(causal) },
    workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
  });
  const output = engine.tensor(batch * length, d, "attention output");
  matmul(scores, qkv, {
    out: output,
    batch: {
      groups: batch,
      heads,
      m: length,
      n: headSize,
      k: length,
      a: { first: 0, stride: slots },
      b: { first: 2 * d, stride: headSize },
      c: { first: 0, stride: headSize },
      causal: causal ? "innerBelow" : "none",
    },
  });
  return { output, logSums };
}

/** Arguments of `attentionBackward`. */
export interface AttentionBackwardOptions extends AttentionShape {
  /** Input of the forward pass, [B * T, 3 * H * D]. */
  readonly qkv: Tensor;
  /** Output of the forward pass, [B * T, H * D]. */
  readonly output: Tensor;
  /** [B * T, H], from the forward pass. */
  readonly logSums: Tensor;
  /** Gradient of the output, [B * T, H * D]. */
  readonly dOutput: Tensor;
}

/**
 * Gradient of the attention's input, [B * T, 3 * H * D]. The scores are computed again instead of
 * being kept: they are the one thing that grows with T squared.
 */
export function attentionBackward(options: AttentionBackwardOptions): Tensor {
  const { qkv, output, logSums, dOutput, batch, length, heads, causal = true } = options;
  const { engine } = qkv;
  const { d, headSize, slots, scale, scores: layout } = plan(qkv, options);
  using scores = engine.tensor(batch * length, heads * slots, "attention scores");
  matmul(qkv, qkv, { transposeB: true, alpha: scale, out: scores, batch: layout });
  using dp = engine.tensor(batch * length, heads * slots, "attention dP");
  matmul(dOutput, qkv, {
    transposeB: true,
    out: dp,
    batch: { ...layout, b: { first: 2 * d, stride: headSize } },
  });
  const rows = batch * length * heads;
  engine.dispatch(softmaxBackwardKernel[engine.adapterClass], {
    bindings: [scores, dp, logSums, output, dOutput],
    parameters: {
      rows,
      length,
      heads,
      slots4: slots / 4,
      log_pitch: logSums.pitch,
      head_size4: headSize / 4,
      scale,
      causal: Number(causal),
    },
    workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
  });
  const dqkv = engine.tensor(qkv.rows, qkv.columns, "attention dqkv");
  const below = causal ? "innerBelow" : "none";
  const above = causal ? "innerAbove" : "none";
  const inner = { groups: batch, heads, m: length, n: headSize, k: length };
  const perKey = { first: 0, stride: slots };
  const perHead = (first: number) => ({ first, stride: headSize });
  // dQ = dS K
  matmul(dp, qkv, {
    out: dqkv,
    batch: { ...inner, a: perKey, b: perHead(d), c: perHead(0), causal: below },
  });
  // dK = dS^T Q
  matmul(dp, qkv, {
    transposeA: true,
    out: dqkv,
    batch: { ...inner, a: perKey, b: perHead(0), c: perHead(d), causal: above },
  });
  // dV = P^T dO
  matmul(scores, dOutput, {
    transposeA: true,
    out: dqkv,
    batch: { ...inner, a: perKey, b: perHead(0), c: perHead(2 * d), causal: above },
  });
  return dqkv;
}
