/**
 * Causal multi-head attention, as batched matrix products around a row-wise softmax.
 *
 * B = batch, T = tokens of a sequence, H = heads, D = head size; slots = T rounded up to 4;
 * G = heads of keys and values. With G < H (grouped-query attention; Ainslie et al., 2023) query head
 * h reads key and value head floor(h / (H / G)): the products run once per member of the groups, each
 * time for one query head of every group.
 *
 * @module
 */

import backwardSource from "./causal_softmax_backward.wgsl" with { type: "text" };
import softmaxSource from "./causal_softmax.wgsl" with { type: "text" };
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import { roundUp4, type Tensor } from "../engine/tensor.ts";
import { type BatchLayout, type HeadColumns, matmul } from "../matmul/matmul.ts";

/** In-place softmax of scores; `first` is the position of each sequence's first query. */
export const softmaxKernel = defineRowKernel({
  name: "causal_softmax",
  source: softmaxSource,
  bindings: ["write", "write"],
  parameters: [
    ["rows", "u32"],
    ["length", "u32"],
    ["first", "u32"],
    ["heads", "u32"],
    ["slots4", "u32"],
    ["log_pitch", "u32"],
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
  /** G, heads of keys and values; divides H. @default {heads} */
  readonly kvHeads?: number;
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
  /** First column of V. */
  readonly values: number;
  readonly slots: number;
  readonly scale: number;
  /** Layout of the scores' product for each member of the groups; one if G = H. */
  readonly members: readonly Member[];
}

/** Query heads j, j + g, j + 2 g ... of groups of g heads: one of each group, in order of the groups. */
interface Member {
  /** Their columns of Q, and of the output. */
  readonly query: HeadColumns;
  /** Their columns of the scores. */
  readonly slots: HeadColumns;
  /** Layout of Q K^T. */
  readonly scores: BatchLayout;
}

function plan(qkv: Tensor, shape: AttentionShape): Plan {
  const { batch, length, heads } = shape;
  const kvHeads = shape.kvHeads ?? heads;
  if (heads % kvHeads !== 0) {
    throw new TypeError(`Cannot attend as kvHeads must divide heads: they are ${kvHeads} and ${heads}`);
  }
  const headSize = qkv.columns / (heads + 2 * kvHeads);
  const d = heads * headSize;
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
  const group = heads / kvHeads;
  const members = Array.from({ length: group }, (_, j): Member => {
    const query = { first: j * headSize, stride: group * headSize };
    const ofScores = { first: j * slots, stride: group * slots };
    const scores: BatchLayout = {
      groups: batch,
      heads: kvHeads,
      m: length,
      n: length,
      k: headSize,
      a: query,
      b: { first: d, stride: headSize },
      c: ofScores,
      causal: "skipUpper",
    };
    return { query, slots: ofScores, scores };
  });
  const values = d + kvHeads * headSize;
  return { d, headSize, values, slots, scale: 1 / Math.sqrt(headSize), members };
}

/** Workgroups for so many rows. */
export function rowGroups(rows: number, perGroup: number): [number, number] {
  const groups = Math.ceil(rows / perGroup);
  return [Math.min(groups, 32_768), Math.ceil(groups / 32_768)];
}

/**
 * softmax(Q K^T / sqrt(D), causal) V for every head.
 *
 * @param qkv [B * T, (H + 2 G) * D]: Q, K and V side by side, heads side by side in each.
 * @param shape Sequences, tokens and heads.
 * @throws {TypeError} If the shape does not fit or D is not a multiple of 4.
 */
export function attention(qkv: Tensor, shape: AttentionShape): AttentionResult {
  const { engine } = qkv;
  const { batch, length, heads } = shape;
  const { d, headSize, values, slots, scale, members } = plan(qkv, shape);
  using scores = engine.tensor(batch * length, heads * slots, "attention scores");
  for (const member of members) {
    matmul(qkv, qkv, { transposeB: true, alpha: scale, out: scores, batch: member.scores });
  }
  const logSums = engine.tensor(batch * length, heads, "attention log sums");
  const rows = batch * length * heads;
  engine.dispatch(softmaxKernel[engine.adapterClass], {
    bindings: [scores, logSums],
    parameters: { rows, length, first: 0, heads, slots4: slots / 4, log_pitch: logSums.pitch },
    workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
  });
  const output = engine.tensor(batch * length, d, "attention output");
  for (const member of members) {
    matmul(scores, qkv, {
      out: output,
      batch: {
        ...member.scores,
        n: headSize,
        k: length,
        a: member.slots,
        b: { first: values, stride: headSize },
        c: member.query,
        causal: "innerBelow",
      },
    });
  }
  return { output, logSums };
}

/** Arguments of `attentionBackward`. */
export interface AttentionBackwardOptions extends AttentionShape {
  /** Input of the forward pass, [B * T, (H + 2 G) * D]. */
  readonly qkv: Tensor;
  /** Output of the forward pass, [B * T, H * D]. */
  readonly output: Tensor;
  /** [B * T, H], from the forward pass. */
  readonly logSums: Tensor;
  /** Gradient of the output, [B * T, H * D]. */
  readonly dOutput: Tensor;
}

/**
 * Gradient of the attention's input, [B * T, (H + 2 G) * D]. The scores are computed again instead of
 * being kept: they are the one thing that grows with T squared.
 */
export function attentionBackward(options: AttentionBackwardOptions): Tensor {
  const { qkv, output, logSums, dOutput, batch, length, heads } = options;
  const { engine } = qkv;
  const { d, headSize, values, slots, scale, members } = plan(qkv, options);
  using scores = engine.tensor(batch * length, heads * slots, "attention scores");
  using dp = engine.tensor(batch * length, heads * slots, "attention dP");
  const perHead = (first: number) => ({ first, stride: headSize });
  for (const member of members) {
    matmul(qkv, qkv, { transposeB: true, alpha: scale, out: scores, batch: member.scores });
    matmul(dOutput, qkv, {
      transposeB: true,
      out: dp,
      batch: { ...member.scores, b: perHead(values) },
    });
  }
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
    },
    workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
  });
  const dqkv = engine.tensor(qkv.rows, qkv.columns, "attention dqkv");
  for (const [j, { scores: layout, query, slots: perKey }] of members.entries()) {
    const inner = { ...layout, n: headSize, k: length, a: perKey };
    // dQ = dS K
    matmul(dp, qkv, { out: dqkv, batch: { ...inner, b: perHead(d), c: query, causal: "innerBelow" } });
    // dK = dS^T Q and dV = P^T dO, summed over the members of a group.
    const sum = { transposeA: true, out: dqkv, accumulate: j > 0 };
    matmul(dp, qkv, { ...sum, batch: { ...inner, b: query, c: perHead(d), causal: "innerAbove" } });
    matmul(scores, dOutput, {
      ...sum,
      batch: { ...inner, b: query, c: perHead(values), causal: "innerAbove" },
    });
  }
  return dqkv;
}
