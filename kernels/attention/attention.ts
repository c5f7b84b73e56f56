/**
 * Causal multi-head attention, as batched matrix products around a row-wise softmax.
 *
 * B = batch, T = tokens of a sequence, H = heads, D = head size; slots = T rounded up to 4.
 *
 * @module
 */

import backwardSource from "./causal_softmax_backward.wgsl" with { type: "text" };
import softmaxSource from "./causal_softmax.wgsl" with { type: "text" };
import { defineRowKernel, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Engine } from "../engine/engine.ts";
import { roundUp4, type RowWindow, type Tensor } from "../engine/tensor.ts";
import { type HeadColumns, matmul } from "../matmul/matmul.ts";

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
    ["first_row", "u32"],
    ["first_head", "u32"],
    ["all_heads", "u32"],
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
    ["first_row", "u32"],
    ["first_head", "u32"],
    ["all_heads", "u32"],
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
  readonly chunks: readonly Chunk[];
}

/** Sequences and heads whose scores are in memory at the same time. */
interface Chunk {
  readonly sequence: number;
  readonly sequences: number;
  readonly head: number;
  readonly heads: number;
}

function plan(qkv: Tensor, shape: AttentionShape): Plan {
  const { batch, length, heads } = shape;
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
  return { d, headSize, slots, scale: 1 / Math.sqrt(headSize), chunks: chunksOf(qkv.engine, shape, slots) };
}

/** As many sequences at a time as one binding holds scores of; some heads of one where it does not hold one. */
function chunksOf(engine: Engine, { batch, length, heads }: AttentionShape, slots: number): Chunk[] {
  const perBinding = Math.floor(engine.maxBindingBytes / (length * slots * 4));
  // Scores are [rows, heads * slots], and a software adapter reads them as textures.
  const widest = engine.adapterClass === "cpu" ? Math.floor(engine.maxTextureSide * 4 / slots) : heads;
  const some = Math.min(heads, widest, perBinding);
  if (some === 0) {
    throw new RangeError(
      `Cannot attend as the scores of one head must fit a binding of ${engine.maxBindingBytes} bytes and a texture of ${engine.maxTextureSide} texels: they are [${length}, ${slots}]`,
    );
  }
  const sequences = some < heads ? 1 : Math.floor(perBinding / heads);
  const chunks: Chunk[] = [];
  for (let sequence = 0; sequence < batch; sequence += sequences) {
    for (let head = 0; head < heads; head += some) {
      chunks.push({
        sequence,
        sequences: Math.min(sequences, batch - sequence),
        head,
        heads: Math.min(some, heads - head),
      });
    }
  }
  return chunks;
}

/** Where a chunk's part of Q, K, V or of a tensor like the output lies; `which` counts blocks of d columns. */
function partOf(
  chunk: Chunk,
  { d, headSize }: Plan,
  length: number,
): (which: number) => HeadColumns {
  return (which) => ({
    first: which * d + chunk.head * headSize,
    stride: headSize,
    row: chunk.sequence * length,
  });
}

/** Scores = scale * Q K^T below the diagonal, or dP = dO V^T. */
function scoresOf(
  a: Tensor,
  b: Tensor,
  { chunk, length, headSize, slots, alpha, partA, partB }: {
    readonly chunk: Chunk;
    readonly length: number;
    readonly headSize: number;
    readonly slots: number;
    readonly alpha: number;
    readonly partA: HeadColumns;
    readonly partB: HeadColumns;
  },
): Tensor {
  const out = a.engine.tensor(chunk.sequences * length, chunk.heads * slots, "attention scores");
  return matmul(a, b, {
    transposeB: true,
    alpha,
    out,
    batch: {
      groups: chunk.sequences,
      heads: chunk.heads,
      m: length,
      n: length,
      k: headSize,
      a: partA,
      b: partB,
      c: { first: 0, stride: slots },
      causal: "skipUpper",
    },
  });
}

function rowGroups(rows: number, perGroup: number): [number, number] {
  const groups = Math.ceil(rows / perGroup);
  return [Math.min(groups, 32_768), Math.ceil(groups / 32_768)];
}

/**
 * softmax(Q K^T / sqrt(D), causal) V for every head. Scores that do not fit one binding are computed for
 * some sequences, or some heads of one, at a time.
 *
 * @param qkv [B * T, 3 * H * D]: Q, K and V side by side, heads side by side in each.
 * @param shape Sequences, tokens and heads.
 * @throws {TypeError} If the shape does not fit or D is not a multiple of 4.
 * @throws {RangeError} If the scores of a single head, [T, T], do not fit one binding.
 */
export function attention(qkv: Tensor, shape: AttentionShape): AttentionResult {
  const { engine } = qkv;
  const { batch, length, heads } = shape;
  const planned = plan(qkv, shape);
  const { d, headSize, slots, scale } = planned;
  const logSums = engine.tensor(batch * length, heads, "attention log sums");
  const output = engine.tensor(batch * length, d, "attention output");
  for (const chunk of planned.chunks) {
    const part = partOf(chunk, planned, length);
    const common = { chunk, length, headSize, slots };
    using scores = scoresOf(qkv, qkv, { ...common, alpha: scale, partA: part(0), partB: part(1) });
    const row = chunk.sequence * length;
    const logs = logSums.windowAt(row, scores.rows);
    const rows = scores.rows * chunk.heads;
    engine.dispatch(softmaxKernel[engine.adapterClass], {
      bindings: [scores, logs],
      parameters: {
        rows,
        length,
        heads: chunk.heads,
        slots4: slots / 4,
        log_pitch: logSums.pitch,
        first_row: row - logs.row,
        first_head: chunk.head,
        all_heads: heads,
      },
      workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
    });
    matmul(scores, qkv, {
      out: output,
      batch: {
        groups: chunk.sequences,
        heads: chunk.heads,
        m: length,
        n: headSize,
        k: length,
        a: { first: 0, stride: slots },
        b: part(2),
        c: part(0),
        causal: "innerBelow",
      },
    });
  }
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
 *
 * @throws {TypeError} As {@linkcode attention}.
 * @throws {RangeError} As {@linkcode attention}.
 */
export function attentionBackward(options: AttentionBackwardOptions): Tensor {
  const { qkv, output, logSums, dOutput, length, heads } = options;
  const { engine } = qkv;
  const planned = plan(qkv, options);
  const { headSize, slots, scale } = planned;
  const dqkv = engine.tensor(qkv.rows, qkv.columns, "attention dqkv");
  for (const chunk of planned.chunks) {
    const part = partOf(chunk, planned, length);
    const common = { chunk, length, headSize, slots };
    using scores = scoresOf(qkv, qkv, { ...common, alpha: scale, partA: part(0), partB: part(1) });
    using dp = scoresOf(dOutput, qkv, { ...common, alpha: 1, partA: part(0), partB: part(2) });
    const row = chunk.sequence * length;
    const [logs, o, dO] = [logSums, output, dOutput].map((tensor) => tensor.windowAt(row, scores.rows)) as [
      RowWindow,
      RowWindow,
      RowWindow,
    ];
    const rows = scores.rows * chunk.heads;
    engine.dispatch(softmaxBackwardKernel[engine.adapterClass], {
      bindings: [scores, dp, logs, o, dO],
      parameters: {
        rows,
        length,
        heads: chunk.heads,
        slots4: slots / 4,
        log_pitch: logSums.pitch,
        head_size4: headSize / 4,
        first_row: row - logs.row,
        first_head: chunk.head,
        all_heads: heads,
        scale,
      },
      workgroups: rowGroups(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
    });
    const inner = { groups: chunk.sequences, heads: chunk.heads, m: length, n: headSize, k: length };
    const perKey = { first: 0, stride: slots };
    // dQ = dS K
    matmul(dp, qkv, {
      out: dqkv,
      batch: { ...inner, a: perKey, b: part(1), c: part(0), causal: "innerBelow" },
    });
    // dK = dS^T Q
    matmul(dp, qkv, {
      transposeA: true,
      out: dqkv,
      batch: { ...inner, a: perKey, b: part(0), c: part(1), causal: "innerAbove" },
    });
    // dV = P^T dO
    matmul(scores, dOutput, {
      transposeA: true,
      out: dqkv,
      batch: { ...inner, a: perKey, b: part(0), c: part(2), causal: "innerAbove" },
    });
  }
  return dqkv;
}
