/**
 * A fingerprint of a model, by which two devices see whether they hold the same one.
 *
 * @module
 */

import type { NamedArrays } from "../files/named_arrays.ts";
import { shapesOf, streamedEntries } from "../files/streaming.ts";
import { sha256 } from "../files/sha256.ts";
import { StoredTensors } from "../files/stored_tensors.ts";

/** Entries of some files that are no weights of their own: causal masks and the angles of positions. */
const NO_WEIGHT = /(^|\.)(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$/;
/** The LM head, a copy of the token embedding unless the configuration says that it is not tied. */
const LM_HEAD = /(^|\.)lm_head\.weight$/;
/** What names may begin with, by family. */
const PREFIX = /^(transformer|model\.decoder|decoder|model)\./;
/** Bytes of values after which events and timers of the process get their turn. */
const TURN = 2 ** 26;

/** A number by the shortest decimal of its float32: how a file printed it does not matter. */
function shortest(value: number): number {
  if (Number.isSafeInteger(value) || !Number.isFinite(value)) return value;
  const single = Math.fround(value);
  for (let digits = 1; digits < 9; digits++) {
    const decimal = Number(single.toPrecision(digits));
    if (Math.fround(decimal) === single) return decimal;
  }
  return Number(single.toPrecision(9));
}

/** JSON with sorted keys. */
function canonical(value: unknown): string {
  if (typeof value === "number") return JSON.stringify(shortest(value));
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, field]) => `${JSON.stringify(key)}:${canonical(field)}`);
    return `{${fields.join(",")}}`;
  }
  return JSON.stringify(value) ?? "null";
}

/** True for entries of a checkpoint that are no parameters of their own. */
export function isExtra(config: unknown, name: string): boolean {
  const tied = (config as { tie_word_embeddings?: unknown } | null)?.tie_word_embeddings !== false;
  return NO_WEIGHT.test(name) || (tied && LM_HEAD.test(name));
}

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
  const entries: [name: string, shape: readonly number[], digest: string][] = [];
  let unseen = 0;
  for (const [name, { shape, pieces }] of streamedEntries(tensors)) {
    if (isExtra(config, name)) continue;
    // Files that carry digests are hashed once: to check them.
    const noted = tensors instanceof StoredTensors ? tensors.valuesDigest(name) : null;
    entries.push([name.replace(PREFIX, ""), shape, noted ?? await sha256(pieces())]);
    unseen += shape.reduce((a, b) => a * b, 4);
    if (unseen < TURN) continue;
    await new Promise((resolve) => setTimeout(resolve, 0));
    unseen = 0;
  }
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return await sha256([new TextEncoder().encode(canonical({ config, tensors: entries }))]);
}
