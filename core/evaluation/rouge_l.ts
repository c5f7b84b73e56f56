/**
 * ROUGE-L: how much of a text is a common subsequence of words with its references.
 *
 * Lin, "ROUGE: a package for automatic evaluation of summaries", 2004, in the form of the COCO caption scorers.
 *
 * @module
 */

import { checkCorpus, type Corpus, type ScoreWithSegments } from "./corpus.ts";
import { ptbTexts } from "./ptb_tokens.ts";

/** Weight of recall against precision. */
const BETA = 1.2;

/**
 * Computes ROUGE-L, the mean over the instances. The best precision and the best recall may come from
 * different references.
 *
 * @param corpus The texts.
 * @returns Scores in [0, 1].
 * @throws {RangeError} If the corpus cannot be scored.
 */
export function rougeL(corpus: Corpus): ScoreWithSegments {
  checkCorpus("compute ROUGE-L", corpus);
  const { references, predictions } = ptbTexts(corpus);
  const segments = predictions.map((prediction, i) => {
    // An empty text is one empty token, here and there.
    const tokens = prediction.split(" ");
    let precision = 0, recall = 0;
    for (const reference of references[i]!) {
      const other = reference.split(" ");
      const common = longestCommonSubsequence(tokens, other);
      precision = Math.max(precision, common / tokens.length);
      recall = Math.max(recall, common / other.length);
    }
    return precision === 0 || recall === 0
      ? 0
      : (1 + BETA ** 2) * precision * recall / (recall + BETA ** 2 * precision);
  });
  return { score: segments.reduce((sum, value) => sum + value, 0) / segments.length, segments };
}

function longestCommonSubsequence(a: readonly string[], b: readonly string[]): number {
  let row = new Uint32Array(b.length + 1);
  for (const word of a) {
    const next = new Uint32Array(b.length + 1);
    for (let j = 0; j < b.length; j++) {
      next[j + 1] = word === b[j] ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!);
    }
    row = next;
  }
  return row[b.length]!;
}
