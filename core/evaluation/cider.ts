/**
 * CIDEr: similarity of n-grams weighted by how rare they are over the instances.
 *
 * Vedantam et al., "CIDEr: consensus-based image description evaluation", 2015; the variant CIDEr-D, with
 * clipped counts and a penalty on differing lengths, which the E2E challenge reports as CIDEr.
 *
 * @module
 */

import { splitWords } from "../files/text.ts";
import { checkCorpus, type Corpus, type ScoreWithSegments } from "./corpus.ts";
import { countNgrams } from "./ngrams.ts";
import { ptbTexts } from "./ptb_tokens.ts";

const ORDER = 4;
/** Standard deviation of the length penalty, in bigrams. */
const SIGMA = 6;

/** A text as weighted n-grams, one vector for each n. */
interface WeightedText {
  readonly vectors: readonly Map<string, number>[];
  readonly norms: readonly number[];
  /** Number of bigrams. */
  readonly length: number;
}

/**
 * Computes CIDEr-D, the mean over the instances. With a single instance it is 0, as nothing is rare.
 *
 * @param corpus The texts.
 * @returns Scores in [0, 10].
 * @throws {RangeError} If the corpus cannot be scored.
 */
export function cider(corpus: Corpus): ScoreWithSegments {
  checkCorpus("compute CIDEr", corpus);
  const texts = ptbTexts(corpus);
  const counts = (text: string): Map<string, number>[] => {
    const words = splitWords(text);
    return Array.from({ length: ORDER }, (_, n) => countNgrams(words, n + 1));
  };
  const references = texts.references.map((list) => list.map(counts));
  const instancesWith = new Map<string, number>();
  for (const list of references) {
    const seen = new Set(list.flatMap((text) => text.flatMap((ngrams) => [...ngrams.keys()])));
    for (const ngram of seen) instancesWith.set(ngram, (instancesWith.get(ngram) ?? 0) + 1);
  }
  const logInstances = Math.log(references.length);
  const weigh = (text: readonly Map<string, number>[]): WeightedText => {
    const vectors = text.map((ngrams) =>
      new Map(
        ngrams.entries().map(([ngram, count]) => {
          const idf = logInstances - Math.log(Math.max(1, instancesWith.get(ngram) ?? 0));
          return [ngram, count * idf];
        }),
      )
    );
    const norms = vectors.map((v) => Math.sqrt(v.values().reduce((sum, value) => sum + value * value, 0)));
    return { vectors, norms, length: text[1]!.values().reduce((sum, count) => sum + count, 0) };
  };
  const segments = texts.predictions.map((prediction, i) => {
    const weighted = weigh(counts(prediction));
    const list = references[i]!;
    const sum = list.reduce((total, reference) => total + similarity(weighted, weigh(reference)), 0);
    return 10 * sum / list.length;
  });
  return { score: segments.reduce((sum, value) => sum + value, 0) / segments.length, segments };
}

/** Mean over n of the clipped cosine, less the penalty on lengths. */
function similarity(prediction: WeightedText, reference: WeightedText): number {
  const penalty = Math.exp(-((prediction.length - reference.length) ** 2) / (2 * SIGMA ** 2));
  let sum = 0;
  for (let n = 0; n < ORDER; n++) {
    let product = 0;
    for (const [ngram, value] of prediction.vectors[n]!) {
      const other = reference.vectors[n]!.get(ngram) ?? 0;
      product += Math.min(value, other) * other;
    }
    const norm = prediction.norms[n]! * reference.norms[n]!;
    sum += norm === 0 ? product : product / norm;
  }
  return penalty * sum / ORDER;
}
