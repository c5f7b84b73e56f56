/**
 * Multi-head attention in double precision: slow, readable, what the kernels are compared with.
 *
 * @module
 */

import type { AttentionShape } from "./attention.ts";

/** Result of `attentionReference`. */
export interface AttentionReferenceResult {
  /** [B * T, H * D] */
  readonly output: Float64Array;
  /** [B * T, H]: logarithms of the softmax sums. */
  readonly logSums: Float64Array;
  /** [B, H, T, T]: softmax of the scores, zero for keys that the query does not see. */
  readonly weights: Float64Array;
}

/** Reads Q, K or V of a token from qkv [B * T, (H + 2 G) * D]; of K and V the head that query head h reads. */
function reader(qkv: ArrayLike<number>, { batch, length, heads, kvHeads = heads }: AttentionShape) {
  const columns = qkv.length / (batch * length);
  const headSize = columns / (heads + 2 * kvHeads);
  const d = heads * headSize;
  const place = (which: number, token: number, h: number, i: number) => {
    const head = which === 0 ? h : heads + (which - 1) * kvHeads + Math.floor(h * kvHeads / heads);
    return token * columns + head * headSize + i;
  };
  return { d, headSize, place, read: (...at: Parameters<typeof place>) => qkv[place(...at)]! };
}

/** First and last key that a query sees. */
function seen(query: number, { length, causal = true, window = Infinity }: AttentionShape): [number, number] {
  return causal ? [Math.max(0, query - window + 1), query] : [0, length - 1];
}

/** softmax(Q K^T * scale, causal if asked for) V for every head; qkv [B * T, (H + 2 G) * D]. */
export function attentionReference(qkv: ArrayLike<number>, shape: AttentionShape): AttentionReferenceResult {
  const { batch, length, heads } = shape;
  const { d, headSize, read } = reader(qkv, shape);
  const scale = shape.scale ?? 1 / Math.sqrt(headSize);
  const output = new Float64Array(batch * length * d);
  const logSums = new Float64Array(batch * length * heads);
  const weights = new Float64Array(batch * heads * length * length);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let q = 0; q < length; q++) {
        const token = b * length + q;
        const scores: number[] = [];
        const [lowest, last] = seen(q, shape);
        for (let k = lowest; k <= last; k++) {
          let sum = 0;
          for (let i = 0; i < headSize; i++) sum += read(0, token, h, i) * read(1, b * length + k, h, i);
          scores.push(sum * scale);
        }
        const highest = Math.max(...scores);
        const sum = scores.reduce((all, s) => all + Math.exp(s - highest), 0);
        logSums[token * heads + h] = highest + Math.log(sum);
        scores.forEach((s, i) => {
          const k = lowest + i;
          const weight = Math.exp(s - highest) / sum;
          weights[((b * heads + h) * length + q) * length + k] = weight;
          for (let i = 0; i < headSize; i++) {
            output[token * d + h * headSize + i]! += weight * read(2, b * length + k, h, i);
          }
        });
      }
    }
  }
  return { output, logSums, weights };
}

/** Gradient of qkv, [B * T, (H + 2 G) * D], from that of the output, [B * T, H * D]. */
export function attentionBackwardReference(
  qkv: ArrayLike<number>,
  dOutput: ArrayLike<number>,
  shape: AttentionShape,
): Float64Array {
  const { batch, length, heads } = shape;
  const { d, headSize, place, read } = reader(qkv, shape);
  const scale = shape.scale ?? 1 / Math.sqrt(headSize);
  const { weights } = attentionReference(qkv, shape);
  const dqkv = new Float64Array(qkv.length);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let q = 0; q < length; q++) {
        const token = b * length + q;
        const dOut = (i: number) => dOutput[token * d + h * headSize + i]!;
        const [lowest, last] = seen(q, shape);
        const at = ((b * heads + h) * length + q) * length;
        const row = weights.subarray(at + lowest, at + last + 1);
        const dWeights = [...row].map((_, key) => {
          const k = lowest + key;
          let sum = 0;
          for (let i = 0; i < headSize; i++) sum += dOut(i) * read(2, b * length + k, h, i);
          return sum;
        });
        const mean = dWeights.reduce((sum, dw, k) => sum + dw * row[k]!, 0);
        row.forEach((weight, key) => {
          const k = lowest + key;
          const dScore = weight * (dWeights[key]! - mean) * scale;
          for (let i = 0; i < headSize; i++) {
            dqkv[place(0, token, h, i)]! += dScore * read(1, b * length + k, h, i);
            dqkv[place(1, b * length + k, h, i)]! += dScore * read(0, token, h, i);
            dqkv[place(2, b * length + k, h, i)]! += weight * dOut(i);
          }
        });
      }
    }
  }
  return dqkv;
}
