/**
 * The predictor's forward pass in TypeScript: what pruners run in every step, and the readable reference of
 * the network that is trained on the GPU. For so small a network it is faster than waiting for a GPU.
 *
 * Letters as in `predictor.ts`. Sums are in double precision, results are rounded to float32.
 *
 * @module
 */

import { ENCODER_HEADS, ENCODER_LAYERS, MAP_CHANNELS, type Predictor } from "./predictor.ts";
import { type PredictorFeatures, predictorFeatures, type StepView, type TrackedStep } from "./windows.ts";

type Weights = Predictor["weights"];

/** x W + b, [rows, outputs]; x is [rows, inputs]. */
function linear(x: Float32Array, weights: Weights, name: string): Float32Array {
  const weight = weights[`${name}.weight`]!;
  const bias = weights[`${name}.bias`]!;
  const outputs = bias.length;
  const inputs = weight.length / outputs;
  const y = new Float32Array(x.length / inputs * outputs);
  const sum = new Float64Array(outputs);
  for (let r = 0; r * inputs < x.length; r++) {
    sum.set(bias);
    for (let i = 0; i < inputs; i++) {
      const factor = x[r * inputs + i]!;
      if (factor === 0) continue;
      const at = i * outputs;
      for (let o = 0; o < outputs; o++) sum[o]! += factor * weight[at + o]!;
    }
    y.set(sum, r * outputs);
  }
  return y;
}

/** Layer norm of each row. */
function norm(x: Float32Array, weights: Weights, name: string): Float32Array {
  const gain = weights[`${name}.weight`]!;
  const bias = weights[`${name}.bias`]!;
  const width = gain.length;
  const y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at += width) {
    let mean = 0, variance = 0;
    for (let i = 0; i < width; i++) mean += x[at + i]! / width;
    for (let i = 0; i < width; i++) variance += (x[at + i]! - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(variance + NORM_EPSILON);
    for (let i = 0; i < width; i++) y[at + i] = (x[at + i]! - mean) * scale * gain[i]! + bias[i]!;
  }
  return y;
}

/** Added to variances in norms. */
export const NORM_EPSILON = 1e-5;

/** The tanh form, as in the GPU's products. */
function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function add(x: Float32Array, y: Float32Array): Float32Array {
  return x.map((v, i) => v + y[i]!);
}

/** gelu(x W1 + b1) W2 + b2 */
function feedForward(x: Float32Array, weights: Weights, up: string, down: string): Float32Array {
  return linear(linear(x, weights, up).map(gelu), weights, down);
}

/** softmax(Q K^T / sqrt(D)) V; every step sees every other. qkv [K, 3 w] -> [K, w]. */
function attention(qkv: Float32Array, steps: number): Float32Array {
  const width = qkv.length / steps / 3;
  const headSize = width / ENCODER_HEADS;
  const out = new Float32Array(steps * width);
  for (let head = 0; head < ENCODER_HEADS; head++) {
    const at = (which: number, step: number) => (step * 3 + which) * width + head * headSize;
    for (let q = 0; q < steps; q++) {
      const scores = Array.from({ length: steps }, (_, k) => {
        let sum = 0;
        for (let i = 0; i < headSize; i++) sum += qkv[at(0, q) + i]! * qkv[at(1, k) + i]!;
        return sum / Math.sqrt(headSize);
      });
      const highest = Math.max(...scores);
      const exponentials = scores.map((s) => Math.exp(s - highest));
      const total = exponentials.reduce((a, b) => a + b, 0);
      for (let i = 0; i < headSize; i++) {
        let sum = 0;
        for (let k = 0; k < steps; k++) sum += exponentials[k]! * qkv[at(2, k) + i]!;
        out[q * width + head * headSize + i] = sum / total;
      }
    }
  }
  return out;
}

/** 3x3 convolution with zero borders; x [inputs, L, H] -> [outputs, L, H]. */
function convolution(
  x: Float32Array,
  weights: Weights,
  name: string,
  { inputs, layers, heads }: Readonly<Record<"inputs" | "layers" | "heads", number>>,
): Float32Array {
  const weight = weights[`${name}.weight`]!;
  const bias = weights[`${name}.bias`]!;
  const size = layers * heads;
  const y = new Float32Array(bias.length * size);
  for (let o = 0; o < bias.length; o++) {
    for (let l = 0; l < layers; l++) {
      for (let h = 0; h < heads; h++) {
        let sum = bias[o]!;
        for (let a = Math.max(0, 1 - l); a < Math.min(3, layers + 1 - l); a++) {
          for (let b = Math.max(0, 1 - h); b < Math.min(3, heads + 1 - h); b++) {
            const place = (l + a - 1) * heads + h + b - 1;
            const tap = o * inputs * 9 + a * 3 + b;
            for (let c = 0; c < inputs; c++) sum += weight[tap + c * 9]! * x[c * size + place]!;
          }
        }
        y[o * size + l * heads + h] = sum;
      }
    }
  }
  return y;
}

/** The network on one window's features: S_base, [L * H]. */
export function predictorForward(predictor: Predictor, features: PredictorFeatures): Float32Array {
  const { config, weights } = predictor;
  const { layers, heads, history, width, channels } = config;
  let x = add(linear(features.tokens, weights, "embedding"), weights.positions!);
  for (let i = 0; i < ENCODER_LAYERS; i++) {
    const name = `encoder.${i}`;
    const mixed = attention(linear(norm(x, weights, `${name}.norm1`), weights, `${name}.qkv`), history);
    x = add(linear(mixed, weights, `${name}.projection`), x);
    x = add(feedForward(norm(x, weights, `${name}.norm2`), weights, `${name}.up`, `${name}.down`), x);
  }
  const state = x.subarray((history - 1) * width);
  const maps = convolution(features.maps, weights, "maps.first", { inputs: MAP_CHANNELS, layers, heads })
    .map((v) => Math.max(0, v));
  const joined = norm(
    add(feedForward(maps, weights, "fusion.up", "fusion.down"), state),
    weights,
    "fusion.norm",
  );
  const local = convolution(maps, weights, "maps.last", { inputs: channels, layers, heads });
  const correction = add(feedForward(joined, weights, "output.up", "output.down"), local);
  return features.offset.map((x, i) => 1 / (1 + Math.exp(-(x + correction[i]!))));
}

/**
 * Predicts S_base of the step to come (Eq. 25).
 *
 * @param predictor The predictor.
 * @param before The steps before, oldest first, at least one; the last K count.
 * @param now What is known of the step to come.
 * @param baseNorm ||W||_F per head, [L * H]; `null` if not known.
 * @returns S_base, [L * H], in (0, 1).
 */
export function predictImportance(
  predictor: Predictor,
  before: readonly TrackedStep[],
  now: StepView,
  baseNorm: Float32Array | null,
): Float32Array {
  const recent = before.slice(-predictor.config.history);
  return predictorForward(predictor, predictorFeatures(predictor, recent, now, baseNorm));
}
