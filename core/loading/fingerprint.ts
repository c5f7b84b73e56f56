/**
 * A fingerprint of a model, by which two devices see whether they hold the same one.
 *
 * @module
 */

import type { NamedArrays } from "../files/named_arrays.ts";
import { shapesOf, streamedEntries } from "../files/streaming.ts";
import { sha256 } from "../files/sha256.ts";
import { StoredTensors } from "../files/stored_tensors.ts";
import { fingerprintOfDigests, isExtra, type TensorDigest } from "./model_digests.ts";

export { isExtra } from "./model_digests.ts";

/** Bytes of values after which events and timers of the process get their turn. */
const TURN = 2 ** 26;

/**
 * Counts the parameters of a model: all numbers of its weights, a copy of the tied LM head and causal masks
 * apart. Of files only the headers are looked at.
 *
 * @param model Configuration and weights.
 */
export function parameterCount(
  { config, weights }: { readonly config: unknown; readonly weights: NamedArrays },
): number {
  let count = 0;
  for (const [name, shape] of shapesOf(weights)) {
    if (!isExtra(config, name)) count += shape.reduce((a, b) => a * b, 1);
  }
  return count;
}

/**
 * Computes the fingerprint of a model: SHA-256 over its configuration and the names, shapes and values of its
 * weights. How the weights were stored does not matter: neither their order, nor the dtype in the file if it
 * holds the values exactly, nor the prefix of the names (`transformer.`, `model.`), nor causal masks or a copy
 * of the tied LM head. Tensors in files are read piece by piece: none is in memory as a whole.
 *
 * @param config What `modelConfig` returns, or any other JSON value; the order of fields does not matter.
 * Do not pass a `config.json` as it is, it also notes things that are not the model.
 * @param tensors The weights.
 * @returns 64 hexadecimal digits.
 *
 * @example
 * ```ts
 * import { fingerprintOf } from "@edgetuner/core";
 *
 * const weights = new Map([["w", { shape: [2], data: Float32Array.of(1, 2) }]]);
 * (await fingerprintOf({ n_layer: 1 }, weights)).length; // 64
 * ```
 */
export async function fingerprintOf(config: unknown, tensors: NamedArrays): Promise<string> {
  return await fingerprintOfDigests(config, await tensorDigests(config, tensors));
}

/**
 * Digests of all weights of a model, which its fingerprint is made of.
 *
 * @param config What `modelConfig` returns, or any other JSON value.
 * @param tensors The weights; they are read piece by piece.
 */
export async function tensorDigests(config: unknown, tensors: NamedArrays): Promise<TensorDigest[]> {
  const entries: TensorDigest[] = [];
  let unseen = 0;
  for (const [name, { shape, pieces }] of streamedEntries(tensors)) {
    if (isExtra(config, name)) continue;
    // Files that carry digests are hashed once: to check them.
    const noted = tensors instanceof StoredTensors ? tensors.valuesDigest(name) : null;
    entries.push({ name, shape, digest: noted ?? await sha256(pieces()) });
    unseen += shape.reduce((a, b) => a * b, 4);
    if (unseen < TURN) continue;
    await new Promise((resolve) => setTimeout(resolve, 0));
    unseen = 0;
  }
  return entries;
}
