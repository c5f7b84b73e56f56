/**
 * The data device's side of a model: embedding, final norm, logits and loss.
 *
 * @module
 */

import { crossEntropy, embeddingGather, embeddingScatterAdd, matmul, type Tensor } from "@edgetuner/kernels";
import { GenerationError } from "../contracts/errors.ts";
import type { MicroBatch } from "../contracts/micro_batches.ts";
import type { EmbeddingAndHead } from "./base.ts";
import type { Gpt2EmbeddingAndHead } from "./families/gpt2.ts";

/**
 * Tokens of a step with what is to be predicted.
 *
 * @category Model and data
 */
export interface TokenBatch {
  /** [B * T]: token of each place. */
  readonly tokens: Uint32Array;
  /** [B * T]: the token that follows. */
  readonly targets: Uint32Array;
  /** [B * T]: 1 where the loss counts, 0 elsewhere. */
  readonly mask: Float32Array;
  /** B, sequences. */
  readonly batch: number;
  /** T, tokens of each sequence. */
  readonly length: number;
}

/** Settings of the loss. */
export interface LossSettings {
  /** Label smoothing, in [0, 1). */
  readonly labelSmoothing: number;
  /**
   * What the sum of the losses is divided by, but for 1e-4: for the part of a batch it is the sum of the
   * whole batch's mask, so that the parts' losses and gradients add up to the batch's.
   *
   * @default {the sum of the batch's mask}
   */
  readonly maskSum?: number;
}

/** Sum of a batch's mask: how many places count for the loss. */
export function maskSumOf({ mask }: Pick<TokenBatch, "mask">): number {
  return mask.reduce((sum, m) => sum + m, 0);
}

/**
 * Some sequences of a batch, as a batch of their own; the values are not copied.
 *
 * @param batch The whole batch.
 * @param part Its sequences and rows, from `splitBatch`.
 */
export function partOfBatch(batch: TokenBatch, part: MicroBatch): TokenBatch {
  const rows = <T extends Uint32Array | Float32Array>(values: T) =>
    values.subarray(part.firstRow, part.firstRow + part.rows) as T;
  return {
    tokens: rows(batch.tokens),
    targets: rows(batch.targets),
    mask: rows(batch.mask),
    batch: part.batch,
    length: batch.length,
  };
}

/** Added to the sum of the mask, as the reference does, so that an empty mask gives 0. */
const MASK_OFFSET = 1e-4;
/** Logits computed at a time, in bytes: rows are cut so that they stay below this. */
const LOGITS_BYTES = 64 * 2 ** 20;
/** Rows of logits are computed in multiples of this. */
const ROW_STEP = 64;

/** Rows of logits that are computed at a time. */
function rowsPerPiece(vocabulary: number): number {
  return Math.max(16, Math.floor(LOGITS_BYTES / (vocabulary * 4)));
}

/**
 * Rows of the largest logits of a loss: whole steps of rows, of as many as count or are computed at a time.
 *
 * @param vocabulary V.
 * @param counted Places whose loss counts.
 */
export function logitsRows(vocabulary: number, counted: number): number {
  return Math.ceil(Math.min(counted, rowsPerPiece(vocabulary)) / ROW_STEP) * ROW_STEP;
}

function positionsOf(batch: TokenBatch): Uint32Array {
  return Uint32Array.from(batch.tokens, (_, i) => i % batch.length);
}

/**
 * E of a batch: token embedding, and position embedding in families that add one, [B * T, d].
 *
 * @throws {RangeError} If a token is not in the vocabulary or the sequence is too long.
 */
export function embedTokens(ends: EmbeddingAndHead, batch: TokenBatch): Tensor {
  const { positions } = ends.shape;
  if (batch.length > positions) {
    throw new RangeError(
      `Cannot embed the batch as a sequence must be at most ${positions} tokens: current value is ${batch.length}`,
    );
  }
  return ends.embed(batch.tokens, positionsOf(batch));
}

/** Adds the gradient of E to the embedding tables; for training all parameters. */
export function embedTokensBackward(ends: Gpt2EmbeddingAndHead, batch: TokenBatch, dEmbedding: Tensor): void {
  if (ends.tokens.gradient === null || ends.positions.gradient === null) return;
  embeddingScatterAdd(dEmbedding, batch.tokens, ends.tokens.gradient);
  embeddingScatterAdd(dEmbedding, positionsOf(batch), ends.positions.gradient);
}

/** Result of `modelLoss`. */
export interface ModelLoss {
  /** Losses of the rows that count, one tensor per piece; their sum is the loss. */
  readonly losses: readonly Tensor[];
  /** dh_L, [B * T, d]; `null` if not asked for. */
  readonly gradient: Tensor | null;
}

/**
 * Final norm, logits and loss: (1 - s) * nll + s * mean over the vocabulary of -log p, summed over
 * the places where the mask is 1 and divided by (their number + 1e-4).
 *
 * Logits are computed for those places only, and for at most 64 MiB of them at a time.
 *
 * @param ends Final norm and LM head.
 * @param hidden h_L, [B * T, d].
 * @param batch Targets and mask.
 * @param settings Label smoothing, and whether to compute dh_L too.
 */
export function modelLoss(
  ends: EmbeddingAndHead,
  hidden: Tensor,
  batch: TokenBatch,
  { gradient, ...settings }: LossSettings & { readonly gradient: boolean },
): ModelLoss {
  const { engine } = hidden;
  const { lmHead, shape: { vocabulary } } = ends;
  using normed = ends.normalise(hidden);
  const counted: number[] = [];
  batch.mask.forEach((m, i) => {
    if (m !== 0) counted.push(i);
  });
  const maskSum = settings.maskSum ?? maskSumOf(batch);
  using dNormed = gradient ? engine.zeros(hidden.rows, hidden.columns, "d final norm") : null;
  const losses: Tensor[] = [];
  const perPiece = rowsPerPiece(vocabulary);
  for (let start = 0; start < counted.length; start += perPiece) {
    const piece = counted.slice(start, start + perPiece);
    // Rows in steps of 64, the rest with weight 0: tensors of few sizes are used again and again.
    const rows = new Uint32Array(logitsRows(vocabulary, piece.length));
    rows.set(piece);
    using x = embeddingGather(normed.y, rows);
    using targets = engine.upload(
      Uint32Array.from(rows, (i) => batch.targets[i]!),
      1,
      rows.length,
      "targets",
    );
    using weights = engine.upload(
      Float32Array.from(rows, (i, r) => r < piece.length ? batch.mask[i]! / (maskSum + MASK_OFFSET) : 0),
      1,
      rows.length,
      "loss weights",
    );
    // A row of logits may be longer than a texture is wide: the vocabulary in chunks.
    const widest = engine.maxTextureSide * 4;
    const chunks = [];
    for (let first = 0; first < vocabulary; first += widest) {
      const count = Math.min(widest, vocabulary - first);
      const logits = matmul(x, lmHead.value, { transposeB: true, rowsOfB: { first, rows: count } });
      chunks.push({ logits, first });
    }
    losses.push(crossEntropy({
      chunks,
      targets,
      weights,
      vocabulary,
      smoothing: settings.labelSmoothing,
      gradient,
    }));
    if (dNormed !== null) {
      using dx = engine.tensor(rows.length, hidden.columns, "d logits input");
      for (const { logits, first } of chunks) {
        matmul(logits, lmHead.value, {
          rowsOfB: { first, rows: logits.columns },
          out: dx,
          accumulate: first > 0,
        });
        if (lmHead.gradient !== null) {
          if (chunks.length > 1) {
            throw new RangeError(
              `Cannot train the embedding as the vocabulary must be at most ${widest} entries here: current value is ${vocabulary}`,
            );
          }
          matmul(logits, x, { transposeA: true, out: lmHead.gradient, accumulate: true });
        }
      }
      embeddingScatterAdd(dx, rows, dNormed);
    }
    for (const { logits } of chunks) logits.dispose();
  }
  if (dNormed === null) return { losses, gradient: null };
  return { losses, gradient: normed.backward(dNormed) };
}

/**
 * Natural logarithms of the probabilities of targets. The softmax is taken on the GPU; only these numbers are read
 * back.
 *
 * @param ends Final norm and LM head.
 * @param hidden h_L, [B * T, d].
 * @param batch Targets, and a mask that is 1 for those that are asked for, 0 elsewhere.
 * @returns One number for each 1 of the mask, in order; none is above 0.
 * @throws {GenerationError} If one is not finite.
 */
export async function targetLogProbabilities(
  ends: EmbeddingAndHead,
  hidden: Tensor,
  batch: TokenBatch,
): Promise<Float64Array> {
  // Losses that are divided by 1.
  const settings = { labelSmoothing: 0, maskSum: 1 - MASK_OFFSET };
  const { losses } = modelLoss(ends, hidden, batch, { ...settings, gradient: false });
  const pieces = await hidden.engine.read(losses);
  for (const tensor of losses) tensor.dispose();
  const found = new Float64Array(maskSumOf(batch));
  const perPiece = rowsPerPiece(ends.shape.vocabulary);
  // What fills the last rows of a piece is left out.
  pieces.forEach((piece, i) => {
    const count = Math.min(perPiece, found.length - i * perPiece);
    // The logarithm of a sum that is 1 may be rounded below 0.
    for (let k = 0; k < count; k++) found[i * perPiece + k] = Math.min(0, -piece[k]!);
    if (piece.subarray(0, count).every(Number.isFinite)) return;
    throw new GenerationError(
      "Cannot compute likelihoods as they must be finite: one is not; look at the model's weights, the adapter and the codec",
    );
  });
  return found;
}

/** Adds up losses read back from the GPU, in double precision and in order. */
export function sumLosses(parts: readonly Float32Array[]): number {
  let sum = 0;
  for (const part of parts) for (const loss of part) sum += loss;
  return sum;
}

/** Logits of some rows of h_L, [rows.length, V]; for generation. */
export function logitsOf(ends: EmbeddingAndHead, hidden: Tensor, rows: Uint32Array): Tensor {
  using picked = embeddingGather(hidden, rows);
  using normed = ends.normalise(picked);
  return matmul(normed.y, ends.lmHead.value, { transposeB: true });
}
