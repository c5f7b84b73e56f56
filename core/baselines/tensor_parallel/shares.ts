/**
 * Tensor parallelism (Megatron-LM, arXiv 1909.08053): which part of the base model each rank holds,
 * and what it takes to hold it.
 *
 * Ranks: the edge server first, then the devices. d hidden size, D = d / H head size, F = 4 d columns
 * of the feed-forward network; a rank's share has n heads and f of the F columns, in every layer.
 *
 * @module
 */

import { roundUp4 } from "@edgetuner/kernels";
import { allocateHeads, type HeadRange } from "../../lora/allocation.ts";
import { inputRows } from "../../lora/input_mode.ts";
import { INPUT_MODES } from "../../lora/input_modes.ts";
import { type LoraSettings, modeSize } from "../../lora/settings.ts";
import type { NamedArrays } from "../../files/named_arrays.ts";
import { weightOf } from "../../model/ops.ts";
import type { ModelShape } from "../../contracts/model_shape.ts";

/** What a rank holds of every layer. */
export interface Share {
  /** Attention heads, with their head modules. */
  readonly heads: HeadRange;
  /** Columns of the feed-forward network. */
  readonly columns: HeadRange;
}

/** Batch and sequence length of a step. */
export interface StepSize {
  /** B, sequences. */
  readonly batch: number;
  /** Tokens of each sequence. */
  readonly length: number;
}

/**
 * Divides heads and feed-forward columns among ranks in proportion to their capacities (Eq. 3 for
 * both; columns in groups of four).
 *
 * @param model Shape of the model.
 * @param capacities gamma of each rank, the edge server's first.
 * @throws {RangeError} If there are more ranks than heads, or a capacity is not positive.
 */
export function allocateShares(model: ModelShape, capacities: readonly number[]): Share[] {
  const columns = allocateHeads(model.hidden, capacities); // F / 4 = d groups of four
  return allocateHeads(model.heads, capacities).map((heads, rank) => ({
    heads,
    columns: { first: 4 * columns[rank]!.first, count: 4 * columns[rank]!.count },
  }));
}

/**
 * Shapes of a share's weights in one layer, in order: norm 1 (gamma, beta), Q K V (weight, bias),
 * projection, norm 2 (gamma, beta), up (weight, bias), down. The biases of projection and down are
 * the edge server's alone: they are added once.
 *
 * @returns [rows, columns] of each.
 */
export function shardShapes(model: ModelShape, { heads, columns }: Share): [number, number][] {
  const d = model.hidden;
  const own = heads.count * d / model.heads;
  const f = columns.count;
  return [[1, d], [1, d], [d, 3 * own], [1, 3 * own], [own, d], [1, d], [1, d], [d, f], [1, f], [f, d]];
}

/** Some columns of a row-major matrix. */
function columnsOf(data: Float32Array, rows: number, ranges: readonly HeadRange[]): Float32Array {
  const width = data.length / rows;
  const own = ranges.reduce((sum, { count }) => sum + count, 0);
  const out = new Float32Array(rows * own);
  for (let r = 0; r < rows; r++) {
    let at = r * own;
    for (const { first, count } of ranges) {
      out.set(data.subarray(r * width + first, r * width + first + count), at);
      at += count;
    }
  }
  return out;
}

/**
 * Cuts a share's weights of one layer out of a checkpoint.
 *
 * @returns In the order and shapes of `shardShapes`.
 * @throws {ModelFileError} If a weight is missing or has another shape.
 */
export function cutShard(
  weights: NamedArrays,
  model: ModelShape,
  share: Share,
  layer: number,
): Float32Array[] {
  const d = model.hidden;
  const headSize = d / model.heads;
  const { columns } = share;
  const own = { first: share.heads.first * headSize, count: share.heads.count * headSize };
  const thirds = [0, 1, 2].map((third) => ({ first: third * d + own.first, count: own.count }));
  const read = (name: string, rows: number, width: number) =>
    weightOf(weights, `h.${layer}.${name}`, rows, width);
  const rowsOf = (data: Float32Array, { first, count }: HeadRange) =>
    data.subarray(first * d, (first + count) * d);
  return [
    read("ln_1.weight", 1, d),
    read("ln_1.bias", 1, d),
    columnsOf(read("attn.c_attn.weight", d, 3 * d), d, thirds),
    columnsOf(read("attn.c_attn.bias", 1, 3 * d), 1, thirds),
    rowsOf(read("attn.c_proj.weight", d, d), own),
    read("ln_2.weight", 1, d),
    read("ln_2.bias", 1, d),
    columnsOf(read("mlp.c_fc.weight", d, 4 * d), d, [columns]),
    columnsOf(read("mlp.c_fc.bias", 1, 4 * d), 1, [columns]),
    rowsOf(read("mlp.c_proj.weight", 4 * d, d), columns),
  ];
}

/** Bytes of a share's weights as they travel at the start. */
export function shardBytes(model: ModelShape, share: Share): number {
  return 4 * model.layers * shardShapes(model, share).reduce((sum, [rows, width]) => sum + rows * width, 0);
}

/** Bytes of GPU memory that a share needs for training. */
export interface ShareMemory {
  /** The base model's weights. */
  readonly weights: number;
  /** Head modules: parameters, gradients and both moments. */
  readonly headModules: number;
  /** What the forward pass keeps for the backward pass, and what that needs besides. */
  readonly activations: number;
  /** All of it. */
  readonly total: number;
}

/**
 * Bytes of GPU memory that a share needs in training steps of a size, as the sum of its tensors.
 * Pools, and the copies that software adapters make, come on top.
 */
export function shareMemory(
  model: ModelShape,
  share: Share,
  options: { readonly lora: LoraSettings; readonly step: StepSize },
): ShareMemory {
  const { lora, step } = options;
  const d = model.hidden;
  const headSize = d / model.heads;
  const n = share.heads.count;
  const f = share.columns.count;
  const c = lora.targets.length;
  const tokens = step.batch * step.length;
  const bytes = (rows: number, columns: number) => 4 * rows * roundUp4(columns);

  // Without the biases that are the edge server's a rank has zeros in their place.
  const layer = shardShapes(model, share).reduce((sum, [rows, columns]) => sum + bytes(rows, columns), 0) +
    2 * bytes(1, d);
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  const rank = roundUp4(lora.rank);
  const headModules = 4 * 4 * model.layers * n * c * (rank * roundUp4(mode.columns(size)) + headSize * rank);

  const wide = bytes(tokens, d);
  const own = bytes(tokens, n * headSize);
  const inner = bytes(tokens, f);
  const input = inputRows(mode.shape(n, tokens, size));
  const loraInput = mode.copies || lora.dropout > 0 ? bytes(input.rows, input.columns) : 0;
  const small = 2 * bytes(tokens, 2) + bytes(tokens, n); // norms' statistics, attention's sums
  // Both blocks: input, norm, output; Q K V and the mixed values; LoRA; before and after gelu.
  const kept = 6 * wide + 4 * own + loraInput + c * n * bytes(tokens, rank) + 2 * inner + small;
  const scores = 2 * bytes(tokens, n * roundUp4(step.length));
  const attention = 3 * wide + (4 + c) * own + scores + n * bytes(tokens, rank);
  const feedForward = 4 * wide + inner;
  const activations = model.layers * kept + Math.max(attention, feedForward);
  const weights = model.layers * layer;
  return { weights, headModules, activations, total: weights + headModules + activations };
}
