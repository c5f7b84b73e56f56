/**
 * Multi-head attention, causal or not, as batched matrix products around a row-wise softmax.
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
import { defineRowKernel, gridOf, ROWS_PER_WORKGROUP } from "../engine/lanes.ts";
import type { Engine } from "../engine/engine.ts";
import { roundUp4, type RowWindow, type Tensor } from "../engine/tensor.ts";
import { matmul } from "../matmul/matmul.ts";
import type { HeadColumns } from "../matmul/options.ts";
import { GRID, VEC4, WORKGROUP_SUM } from "../prelude/mod.ts";

/** In-place softmax of scores; `first` is the position of each sequence's first query. */
export const softmaxKernel = defineRowKernel({
  name: "causal_softmax",
  file: "attention/causal_softmax.wgsl",
  source: softmaxSource,
  preludes: [WORKGROUP_SUM, VEC4, GRID],
  bindings: ["scores", "log_sums"],
  parameters: [
    "rows",
    "length",
    "first",
    "heads",
    "slots4",
    "log_pitch",
    "first_row",
    "first_head",
    "all_heads",
    "causal",
    "window",
  ],
});

const softmaxBackwardKernel = defineRowKernel({
  name: "causal_softmax_backward",
  file: "attention/causal_softmax_backward.wgsl",
  source: backwardSource,
  preludes: [VEC4, GRID],
  bindings: ["scores", "dp", "log_sums", "o", "d_o"],
  parameters: [
    "rows",
    "length",
    "heads",
    "slots4",
    "log_pitch",
    "head_size4",
    "first_row",
    "first_head",
    "all_heads",
    "scale",
    "causal",
    "window",
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
  /** False if a token sees those after it too, as in an encoder. @default {true} */
  readonly causal?: boolean;
  /** Keys that a token sees at most: itself and those just before it. @default {all} */
  readonly window?: number | undefined;
  /** What scores are multiplied by. @default {1 / sqrt(D)} */
  readonly scale?: number | undefined;
}

/** No window, as kernels take it. */
const ALL_KEYS = 0xffff_ffff;

/**
 * Keys that a token sees at most, as kernels take it.
 *
 * @throws {RangeError} If it is no positive integer.
 */
export function windowOf({ window, causal = true }: Pick<AttentionShape, "window" | "causal">): number {
  if (window === undefined) return ALL_KEYS;
  if (!(Number.isInteger(window) && window > 0) || !causal) {
    throw new RangeError(
      `Cannot attend as window must be a positive integer of a causal attention: current value is ${window}`,
    );
  }
  return Math.min(window, ALL_KEYS);
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
  readonly window: number;
  readonly chunks: readonly Chunk[];
}

/** Sequences and heads whose scores are in memory at the same time. */
interface Chunk {
  readonly sequence: number;
  readonly sequences: number;
  readonly head: number;
  readonly heads: number;
  /** For each member of the groups, what its products work on; one if G = H. */
  readonly members: readonly Member[];
}

/**
 * Query heads j, j + g, j + 2 g ... of groups of g heads: one of each group, in order of the groups. Where
 * single heads are a chunk, one query head.
 */
interface Member {
  /** How many query heads, and so groups. */
  readonly heads: number;
  /** Their columns of Q, and of what is like the output. */
  readonly query: HeadColumns;
  /** Their columns of the scores. */
  readonly slots: HeadColumns;
  /** Their groups' columns of K, and of V. */
  readonly key: HeadColumns;
  readonly value: HeadColumns;
  /** True for the first query head of its group: it begins the sums of dK and dV. */
  readonly first: boolean;
}

function plan(qkv: Tensor, shape: AttentionShape): Plan {
  const { batch, length, heads, kvHeads = heads } = shape;
  if (heads % kvHeads !== 0) {
    throw new TypeError(`Cannot attend as kvHeads must divide heads: they are ${kvHeads} and ${heads}`);
  }
  const headSize = qkv.columns / (heads + 2 * kvHeads);
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
  const d = heads * headSize;
  const slots = roundUp4(length);
  return {
    d,
    headSize,
    values: d + kvHeads * headSize,
    slots,
    scale: shape.scale ?? 1 / Math.sqrt(headSize),
    window: windowOf(shape),
    chunks: chunksOf(qkv.engine, shape, { slots, headSize }),
  };
}

/** As many sequences at a time as one binding holds scores of; some heads of one where it does not hold one. */
function chunksOf(
  engine: Engine,
  { batch, length, heads, kvHeads = heads }: AttentionShape,
  { slots, headSize }: { readonly slots: number; readonly headSize: number },
): Chunk[] {
  const perBinding = Math.floor(engine.maxBindingBytes / (length * slots * 4));
  // Scores are [rows, heads * slots], and a software adapter reads them as textures.
  const widest = engine.adapterClass === "software" ? Math.floor(engine.maxTextureSide * 4 / slots) : heads;
  const most = Math.min(heads, widest, perBinding);
  if (most === 0) {
    throw new RangeError(
      `Cannot attend as the scores of one head must fit a binding of ${engine.maxBindingBytes} bytes and a texture of ${engine.maxTextureSide} texels: they are [${length}, ${slots}]`,
    );
  }
  const group = heads / kvHeads;
  // Whole groups, or single heads where not even one group fits.
  const some = most === heads ? heads : most >= group ? most - most % group : 1;
  const sequences = some < heads ? 1 : Math.floor(perBinding / heads);
  const size = Math.min(group, some);
  const chunks: Chunk[] = [];
  for (let sequence = 0; sequence < batch; sequence += sequences) {
    const row = sequence * length;
    for (let head = 0; head < heads; head += some) {
      const count = Math.min(some, heads - head);
      const kvHead = Math.floor(head / group);
      const columns = (first: number): HeadColumns => ({
        first: first + kvHead * headSize,
        stride: headSize,
        row,
      });
      chunks.push({
        sequence,
        sequences: Math.min(sequences, batch - sequence),
        head,
        heads: count,
        members: Array.from({ length: size }, (_, j): Member => ({
          heads: count / size,
          query: { first: (head + j) * headSize, stride: size * headSize, row },
          slots: { first: j * slots, stride: size * slots },
          key: columns(heads * headSize),
          value: columns((heads + kvHeads) * headSize),
          first: (head + j) % group === 0,
        })),
      });
    }
  }
  return chunks;
}

/** Scores = scale * Q K^T below the diagonal, or dP = dO V^T. */
function scoresOf(
  a: Tensor,
  b: Tensor,
  { chunk, length, headSize, slots, alpha, of, causal }: {
    readonly chunk: Chunk;
    readonly length: number;
    readonly headSize: number;
    readonly slots: number;
    readonly alpha: number;
    readonly of: "key" | "value";
    readonly causal: boolean;
  },
): Tensor {
  const out = a.engine.tensor(chunk.sequences * length, chunk.heads * slots, "attention scores");
  for (const member of chunk.members) {
    matmul(a, b, {
      transposeB: true,
      alpha,
      out,
      batch: {
        groups: chunk.sequences,
        heads: member.heads,
        m: length,
        n: length,
        k: headSize,
        a: member.query,
        b: member[of],
        c: member.slots,
        causal: causal ? "skipUpper" : "none",
      },
    });
  }
  return out;
}

/**
 * softmax(Q K^T * scale, causal unless said otherwise) V for every head. Scores that do not fit one binding are computed for
 * some sequences, or some heads of one, at a time.
 *
 * @param qkv [B * T, (H + 2 G) * D]: Q, K and V side by side, heads side by side in each.
 * @param shape Sequences, tokens and heads.
 * @throws {TypeError} If the shape does not fit or D is not a multiple of 4.
 * @throws {RangeError} If the scores of a single head, [T, T], do not fit one binding.
 */
export function attention(qkv: Tensor, shape: AttentionShape): AttentionResult {
  const { engine } = qkv;
  const { batch, length, heads, causal = true } = shape;
  const { d, headSize, slots, scale, window, chunks } = plan(qkv, shape);
  const logSums = engine.tensor(batch * length, heads, "attention log sums");
  const output = engine.tensor(batch * length, d, "attention output");
  for (const chunk of chunks) {
    using scores = scoresOf(qkv, qkv, { chunk, length, headSize, slots, alpha: scale, of: "key", causal });
    const row = chunk.sequence * length;
    const logs = logSums.windowAt(row, scores.rows);
    const rows = scores.rows * chunk.heads;
    engine.dispatch(softmaxKernel[engine.adapterClass], {
      bindings: { scores, log_sums: logs },
      parameters: {
        rows,
        length,
        first: 0,
        heads: chunk.heads,
        slots4: slots / 4,
        log_pitch: logSums.pitch,
        first_row: row - logs.row,
        first_head: chunk.head,
        all_heads: heads,
        causal: Number(causal),
        window,
      },
      workgroups: gridOf(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
    });
    for (const member of chunk.members) {
      matmul(scores, qkv, {
        out: output,
        batch: {
          groups: chunk.sequences,
          heads: member.heads,
          m: length,
          n: headSize,
          k: length,
          a: member.slots,
          b: member.value,
          c: member.query,
          causal: causal ? "innerBelow" : "none",
        },
      });
    }
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
 *
 * @throws {TypeError} As {@linkcode attention}.
 * @throws {RangeError} As {@linkcode attention}.
 */
export function attentionBackward(options: AttentionBackwardOptions): Tensor {
  const { qkv, output, logSums, dOutput, length, heads, causal = true } = options;
  const { engine } = qkv;
  const { headSize, slots, scale, window, chunks } = plan(qkv, options);
  const [below, above] = causal ? ["innerBelow", "innerAbove"] as const : ["none", "none"] as const;
  const dqkv = engine.tensor(qkv.rows, qkv.columns, "attention dqkv");
  for (const chunk of chunks) {
    const shape = { chunk, length, headSize, slots, causal };
    using scores = scoresOf(qkv, qkv, { ...shape, alpha: scale, of: "key" });
    using dp = scoresOf(dOutput, qkv, { ...shape, alpha: 1, of: "value" });
    const row = chunk.sequence * length;
    const [logs, o, dO] = [logSums, output, dOutput].map((tensor) => tensor.windowAt(row, scores.rows)) as [
      RowWindow,
      RowWindow,
      RowWindow,
    ];
    const rows = scores.rows * chunk.heads;
    engine.dispatch(softmaxBackwardKernel[engine.adapterClass], {
      bindings: { scores, dp, log_sums: logs, o, d_o: dO },
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
        causal: Number(causal),
        window,
      },
      workgroups: gridOf(rows, ROWS_PER_WORKGROUP[engine.adapterClass]),
    });
    for (const { heads, query, slots: perKey, key, value, first } of chunk.members) {
      const inner = { groups: chunk.sequences, heads, m: length, n: headSize, k: length, a: perKey };
      // dQ = dS K
      matmul(dp, qkv, { out: dqkv, batch: { ...inner, b: key, c: query, causal: below } });
      // dK = dS^T Q and dV = P^T dO, summed over the members of a group.
      const sum = { transposeA: true, out: dqkv, accumulate: !first };
      matmul(dp, qkv, { ...sum, batch: { ...inner, b: query, c: key, causal: above } });
      matmul(scores, dOutput, { ...sum, batch: { ...inner, b: query, c: value, causal: above } });
    }
  }
  return dqkv;
}
