/**
 * A model's fingerprint, from digests of its weights: who holds only some of these can check them, and the whole.
 *
 * @module
 */

import { sha256 } from "../files/sha256.ts";

/** Entries of some files that are no weights of their own: causal masks and the angles of positions. */
const NO_WEIGHT = /(^|\.)(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$/;
/** The LM head, a copy of the token embedding unless the configuration says that it is not tied. */
const LM_HEAD = /(^|\.)lm_head\.weight$/;
/** What names may begin with, by family. */
const PREFIX = /^(transformer|model\.decoder|decoder|model)\./;
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

/** What is known of a weight without its values. */
export interface TensorDigest {
  /** Its name. */
  readonly name: string;
  /** Its shape. */
  readonly shape: readonly number[];
  /** SHA-256 of its values as f32, 64 hexadecimal digits. */
  readonly digest: string;
}

/**
 * The fingerprint of a model whose weights have these digests: what `fingerprintOf` gives for the weights themselves.
 *
 * @param config What `modelConfig` returns, or any other JSON value.
 * @param tensors All weights, in any order.
 */
export async function fingerprintOfDigests(
  config: unknown,
  tensors: readonly TensorDigest[],
): Promise<string> {
  const entries = tensors.filter(({ name }) => !isExtra(config, name))
    .map(({ name, shape, digest }) => [name.replace(PREFIX, ""), shape, digest] as const)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return await sha256([new TextEncoder().encode(canonical({ config, tensors: entries }))]);
}

/** Whether a weight is of embedding, final norm or LM head, which a device with data needs, and not of a layer. */
export function isEndTensor(name: string): boolean {
  return !/(^|\.)(h|layers)\.\d+\./.test(name);
}
