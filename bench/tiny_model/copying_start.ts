/**
 * Initial weights of a GPT-2 that can copy from its context before its first step. Learning to copy from
 * noise takes far more text than a few minutes of training read; from here it only has to be refined.
 *
 * In the first layer some heads look one token back, one head looks two back, and each writes what it sees
 * into columns of its own. In the second layer as many heads look for places whose previous token is the
 * present one, and repeat what stood there: induction heads (Olsson et al., 2022). All of this is written in
 * a basis of the start's own, and all weights are trained from there.
 *
 * @module
 */

import { type Gpt2Config, initialWeights, type NamedArray } from "@edgetuner/core";

/** How far the first heads of layer 0 look back. */
const LOOKS_BACK = [1, 1, 1, 2];
/** Deviation of weights: 0.05 suits a width of 128 better than GPT-2's 0.02, with which the library draws. */
const DEVIATION = 0.05;
/** Amplitude of the position embeddings, and their highest and lowest frequency in radians a token. */
const POSITION = { amplitude: 0.1, highest: 2.2, lowest: 0.02 };
/** Gain of query and key of the heads that look back, and of those that look for the same token. */
const GAIN = { back: 1.5, match: 2 };
/** Size of what a head that looks back writes. */
const WRITTEN = 0.1;

/**
 * Draws the weights.
 *
 * @param config Shape of the model: two layers or more, d at least twice the columns that are set apart.
 * @param seed An integer in [0, 2^32).
 * @returns Weights by name.
 * @throws {RangeError} If the model is too small.
 */
export function copyingStart(config: Gpt2Config, seed: number): Map<string, NamedArray> {
  const { n_embd: d, n_head, n_positions, n_layer } = config;
  const size = d / n_head;
  // Columns of the stream: positions, then one block for each head that looks back, then the token.
  const tokenStart = size * (1 + LOOKS_BACK.length);
  if (n_layer < 2 || n_head < LOOKS_BACK.length || d < 2 * size + tokenStart) {
    throw new RangeError(
      `Cannot start with copying as the model must have 2 layers and ${
        LOOKS_BACK.length + 3
      } heads: it has ${n_layer} and ${n_head}`,
    );
  }
  const weights = initialWeights(config, seed);
  const get = (name: string) => weights.get(`transformer.${name}`)!.data;
  for (const [name, { data }] of weights) {
    // What attention and feed-forward add to the stream stays small beside the embedding.
    if (!/\.(bias|ln_\w\.weight|c_proj\.weight)$/.test(name)) {
      data.forEach((value, i) => data[i] = value * DEVIATION / 0.02);
    }
  }

  const tokens = get("wte.weight");
  const louder = Math.sqrt(d / (d - tokenStart));
  tokens.forEach((value, i) => tokens[i] = i % d < tokenStart ? 0 : value * louder);
  const frequencies = Array.from(
    { length: size / 2 },
    (_, i) => POSITION.highest * (POSITION.lowest / POSITION.highest) ** (i / (size / 2 - 1)),
  );
  const positions = get("wpe.weight").fill(0);
  for (let p = 0; p < n_positions; p++) {
    frequencies.forEach((w, i) => {
      positions[p * d + 2 * i] = POSITION.amplitude * Math.sin(w * p);
      positions[p * d + 2 * i + 1] = POSITION.amplitude * Math.cos(w * p);
    });
  }

  const [qkv0, qkv1] = [get("h.0.attn.c_attn.weight"), get("h.1.attn.c_attn.weight")];
  const [out0, out1] = [get("h.0.attn.c_proj.weight"), get("h.1.attn.c_proj.weight")];
  const reading = 1 / (DEVIATION * Math.sqrt(d - tokenStart));
  LOOKS_BACK.forEach((distance, head) => {
    const [q, k, v] = [0, 1, 2].map((third) => third * d + head * size) as [number, number, number];
    const own = size * (1 + head);
    for (let row = 0; row < d; row++) {
      const at = row * 3 * d;
      for (let i = 0; i < size; i++) {
        // What is drawn becomes a projection of the token that keeps its length.
        qkv0[at + v + i]! *= row < tokenStart ? 0 : reading;
        qkv0[at + q + i] = qkv0[at + k + i] = 0;
      }
    }
    // The query is the position embedding turned back by so many tokens; the key is as it is.
    frequencies.forEach((w, i) => {
      const [cos, sin] = [Math.cos(w * distance) * GAIN.back, Math.sin(w * distance) * GAIN.back];
      const [a, b] = [2 * i * 3 * d + 2 * i, (2 * i + 1) * 3 * d + 2 * i];
      qkv0[q + a] = qkv0[q + b + 1] = cos;
      qkv0[q + a + 1] = sin;
      qkv0[q + b] = -sin;
      qkv0[k + a] = qkv0[k + b + 1] = GAIN.back;
    });
    for (let i = 0; i < size; i++) {
      const row = (head * size + i) * d;
      out0.fill(0, row, row + d);
      out0[row + own + i] = WRITTEN;
    }
    if (distance !== 1) return;
    for (let row = 0; row < d; row++) {
      const at = row * 3 * d;
      for (let i = 0; i < size; i++) {
        qkv1[at + q + i] = qkv0[at + v + i]! * GAIN.match;
        qkv1[at + k + i] = row === own + i ? GAIN.match : 0;
        qkv1[at + v + i]! *= row < tokenStart ? 0 : reading;
        out1[(head * size + i) * d + row] = qkv1[at + v + i]!;
      }
    }
  });
  return weights;
}
