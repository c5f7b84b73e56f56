/**
 * BLEU-4 and NIST-5 of a corpus, as the Python scorers of the E2E challenge compute them.
 *
 * Papineni et al., "BLEU: a method for automatic evaluation of machine translation", 2002; Doddington,
 * "Automatic evaluation of machine translation quality using n-gram co-occurrence statistics", 2002.
 *
 * @module
 */

import { checkCorpus, type Corpus } from "./corpus.ts";
import { mtevalTokens } from "./mteval_tokens.ts";
import { addNgrams, countNgrams, largestCounts } from "./ngrams.ts";

/** How to compute BLEU. */
export interface BleuOptions {
  /** Adds 1 to hits and totals of every n, as is usual for single sentences. @default {false} */
  readonly smooth?: boolean;
  /** Splits a text into tokens. @default {mtevalTokens} */
  readonly tokenize?: (text: string) => string[];
}

/** BLEU and what it is made of; index 0 of each list is for single tokens. */
export interface BleuResult {
  /** In [0, 1] unless predictions have fewer than four tokens, see {@linkcode bleu}. */
  readonly score: number;
  /** Factor for predictions that are shorter than their references. */
  readonly brevityPenalty: number;
  /** N-grams that a reference has too, n = 1..4. */
  readonly hits: readonly number[];
  /** N-grams of the predictions, n = 1..4. */
  readonly totals: readonly number[];
  /** Tokens of all references that are closest in length to their prediction. */
  readonly referenceLength: number;
}

const BLEU_ORDER = 4;
const NIST_ORDER = 5;

/**
 * Computes BLEU-4 of a corpus.
 *
 * Totals are not clipped: a prediction of one token adds 1, 0, -1, -2, as in the reference. So a corpus of
 * very short predictions can score above 1. A corpus without a hit of four tokens scores nearly 0.
 *
 * @param corpus The texts.
 * @param options Smoothing and tokens.
 * @returns The score and its parts.
 * @throws {RangeError} If the corpus cannot be scored.
 *
 * @example
 * ```ts
 * import { bleu } from "@edgetuner/core/evaluation";
 *
 * const { score } = bleu({ references: [["A pub near the river ."]], predictions: ["A pub near the river ."] });
 * score; // 1
 * ```
 */
export function bleu(corpus: Corpus, options: BleuOptions = {}): BleuResult {
  checkCorpus("compute BLEU", corpus);
  const { smooth = false, tokenize = mtevalTokens } = options;
  return bleuOfTokens(tokenizeCorpus(corpus, tokenize), { smooth });
}

/** A corpus as tokens. */
export interface CorpusTokens {
  /** Shape [N][references][tokens]. */
  readonly references: readonly (readonly (readonly string[])[])[];
  /** Shape [N][tokens]. */
  readonly predictions: readonly (readonly string[])[];
}

/** Tokens of all texts of a corpus. */
export function tokenizeCorpus(
  corpus: Corpus,
  tokenize: (text: string) => string[] = (text) => mtevalTokens(text),
): CorpusTokens {
  return {
    references: corpus.references.map((texts) => texts.map((text) => tokenize(text))),
    predictions: corpus.predictions.map((text) => tokenize(text)),
  };
}

/** BLEU of a corpus that has been checked. */
export function bleuOfTokens(
  corpus: CorpusTokens,
  { smooth = false }: { readonly smooth?: boolean } = {},
): BleuResult {
  const hits = new Array<number>(BLEU_ORDER).fill(0);
  const totals = new Array<number>(BLEU_ORDER).fill(0);
  let length = 0, referenceLength = 0;
  corpus.predictions.forEach((tokens, i) => {
    const references = corpus.references[i]!;
    for (let n = 1; n <= BLEU_ORDER; n++) {
      totals[n - 1]! += tokens.length - n + 1;
      hits[n - 1]! += clippedHits(tokens, references, n);
    }
    length += tokens.length;
    referenceLength += closestLength(tokens.length, references);
  });
  const brevityPenalty = length > referenceLength ? 1 : Math.exp(1 - referenceLength / (length || 1e-5));
  const extra = smooth ? 1 : 0;
  let logs = 0;
  for (let n = 0; n < BLEU_ORDER; n++) {
    logs += Math.log(Math.max(hits[n]! + extra, 1e-15) / Math.max(totals[n]! + extra, 1e-9));
  }
  return {
    score: brevityPenalty * Math.exp(logs / BLEU_ORDER),
    brevityPenalty,
    hits,
    totals,
    referenceLength,
  };
}

/** N-grams of the prediction that a reference has too, each at most as often as in one of the references. */
function clippedHits(
  tokens: readonly string[],
  references: readonly (readonly string[])[],
  n: number,
): number {
  const allowed = largestCounts(references, n);
  let hits = 0;
  for (const [ngram, count] of countNgrams(tokens, n)) hits += Math.min(count, allowed.get(ngram) ?? 0);
  return hits;
}

/** Length of the reference that is closest in length, the shorter one of two. */
function closestLength(length: number, references: readonly (readonly string[])[]): number {
  let closest = references[0]!.length;
  for (const { length: other } of references) {
    const gain = Math.abs(closest - length) - Math.abs(other - length);
    if (gain > 0 || (gain === 0 && other < closest)) closest = other;
  }
  return closest;
}

/**
 * Computes NIST-5 of a corpus: n-grams that are rare in the references weigh more.
 *
 * @param corpus The texts.
 * @returns The score, at least 0; NaN if the predictions are so short that they have no run of five tokens.
 * @throws {RangeError} If the corpus cannot be scored.
 */
export function nist(corpus: Corpus): number {
  checkCorpus("compute NIST", corpus);
  return nistOfTokens(tokenizeCorpus(corpus));
}

/** NIST of a corpus that has been checked. */
export function nistOfTokens({ references, predictions }: CorpusTokens): number {
  const counts = Array.from({ length: NIST_ORDER }, (_, n) => {
    const sum = new Map<string, number>();
    for (const texts of references) for (const tokens of texts) addNgrams(tokens, n + 1, sum);
    return sum;
  });
  const meanLengths = references.map((texts) => texts.reduce((sum, t) => sum + t.length, 0) / texts.length);
  const referenceTokens = references.flat().reduce((sum, tokens) => sum + tokens.length, 0);
  const information = (ngram: string, n: number): number => {
    const prefix = n === 1 ? referenceTokens : counts[n - 2]!.get(ngram.slice(0, ngram.lastIndexOf(" ")))!;
    return Math.log2(prefix / counts[n - 1]!.get(ngram)!);
  };
  let score = 0;
  for (let n = 1; n <= NIST_ORDER; n++) {
    let gained = 0, total = 0;
    predictions.forEach((tokens, i) => {
      total += tokens.length - n + 1;
      const allowed = largestCounts(references[i]!, n);
      for (const [ngram, count] of countNgrams(tokens, n)) {
        const hits = Math.min(count, allowed.get(ngram) ?? 0);
        if (hits > 0) gained += hits * information(ngram, n);
      }
    });
    score += total === 0 ? NaN : gained / total;
  }
  const length = predictions.reduce((sum, tokens) => sum + tokens.length, 0);
  const ratio = length / meanLengths.reduce((sum, mean) => sum + mean, 0);
  // The factor is 0.5 for predictions of two thirds of the length of the references.
  const beta = -Math.log(0.5) / Math.log(1.5) ** 2;
  return score * (ratio >= 1 ? 1 : Math.exp(-beta * Math.log(ratio) ** 2));
}
