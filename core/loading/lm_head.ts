/**
 * Whether a model's LM head is its token embedding: what its files hold decides, as in transformers 5.
 *
 * @module
 */

import { LazyArrays } from "../files/lazy_arrays.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { streamed, type StreamedArray } from "../files/streaming.ts";
import { familyOf, type ModelConfig } from "../model/families.ts";
import type { ModelFiles } from "../model/load.ts";

const HEAD = "lm_head.weight";

/** Says whether two tensors have the same shape and values; read side by side, some values at a time. */
function same(one: StreamedArray, other: StreamedArray): boolean {
  if (one.shape.join() !== other.shape.join()) return false;
  const unit = one.shape.at(-1) ?? 1;
  const theirs = other.pieces(unit)[Symbol.iterator]();
  let b: Float32Array = new Float32Array();
  try {
    for (const piece of one.pieces(unit)) {
      for (let a = piece; a.length > 0;) {
        if (b.length === 0) {
          const { value, done } = theirs.next();
          if (done === true) return false;
          b = value;
        }
        const length = Math.min(a.length, b.length);
        for (let i = 0; i < length; i++) if (!Object.is(a[i], b[i])) return false;
        a = a.subarray(length);
        b = b.subarray(length);
      }
    }
    return true;
  } finally {
    theirs.return?.(); // closes its file
  }
}

/** The same tensors, one of them under another name. */
function renamed(weights: NamedArrays, from: string, to: string): NamedArrays {
  const names = [...weights.keys()].map((name) => name === from ? to : name);
  const own = (name: string) => name === to ? from : name;
  return new LazyArrays(names, {
    make: (name) => weights.get(own(name))!,
    shape: (name) => streamed(weights, own(name))!.shape,
    pieces: (name, unit) => streamed(weights, own(name))!.pieces(unit),
    from: (name) => streamed(weights, own(name))?.from,
  });
}

/**
 * Settles whether the LM head is the token embedding. Where the configuration says that it is, and the files hold
 * another head, they are right: the head is a weight of its own. Where they hold the head alone, it is the embedding.
 *
 * @param config What `modelConfig` made of the configuration.
 * @param weights The weights.
 * @returns Both, changed where the files say so, with a notice where they contradict the configuration.
 */
export function settleHead(
  config: ModelConfig,
  weights: NamedArrays,
): ModelFiles & { readonly notices?: readonly string[] } {
  const tied = !("tie_word_embeddings" in config) || config.tie_word_embeddings !== false;
  const head = streamed(weights, HEAD);
  if (!tied || head === undefined) return { config, weights };
  const { prefixes, tokenEmbedding } = familyOf(config);
  const names = prefixes.map((prefix) => `${prefix}${tokenEmbedding}.weight`);
  const name = names.find((name) => weights.has(name));
  if (name === undefined) return { config, weights: renamed(weights, HEAD, names[0]!) };
  if (same(head, streamed(weights, name)!)) return { config, weights };
  return {
    config: { ...config, tie_word_embeddings: false },
    weights,
    notices: [
      `The LM head of the model is a weight of its own: tie_word_embeddings is true, but "${HEAD}" differs from "${name}"`,
    ],
  };
}
