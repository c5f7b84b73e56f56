/**
 * The five scores of the E2E challenge at once.
 *
 * @module
 */

import { bleuOfTokens, nistOfTokens, tokenizeCorpus } from "./bleu.ts";
import { cider } from "./cider.ts";
import { checkCorpus, type Corpus } from "./corpus.ts";
import { MeteorScorer } from "./meteor.ts";
import type { MeteorData } from "./meteor_data.ts";
import { ptbTexts } from "./ptb_tokens.ts";
import { rougeL } from "./rouge_l.ts";

/** The scores, named as the challenge's tool prints them. */
export interface Scores {
  /** BLEU-4 in [0, 1]. */
  readonly BLEU: number;
  /** NIST-5, at least 0; NaN if the predictions are too short for it. */
  readonly NIST: number;
  /** METEOR without paraphrases in [0, 1]; null if its data was not given. */
  readonly METEOR: number | null;
  /** ROUGE-L in [0, 1]. */
  readonly ROUGE_L: number;
  /** CIDEr-D in [0, 10]. */
  readonly CIDEr: number;
}

/** Scores of a corpus and of each of its instances. */
export interface CorpusScores extends Scores {
  /** Scores of each instance on its own; CIDEr with the rarity of n-grams in the whole corpus. Shape [N]. */
  readonly segments: readonly Scores[];
}

/** How to score. */
export interface ScoreOptions {
  /** METEOR's word lists and synonyms; without them METEOR is left out. */
  readonly meteor?: MeteorData;
  /** Called now and then with how many instances METEOR, the slowest of the five, is done with. */
  readonly onProgress?: (done: number) => void;
  /** Stops the work. */
  readonly signal?: AbortSignal;
}

/** Instances between two looks at the event loop. */
const STRETCH = 16;

/**
 * Computes BLEU, NIST, METEOR, ROUGE-L and CIDEr. Gives way to other work now and then.
 *
 * @param corpus The texts.
 * @param options METEOR's data, progress, signal.
 * @returns The scores.
 * @throws {RangeError} If the corpus is empty, the counts differ, or an instance has no reference.
 * @throws {DOMException} Or the signal's reason, if the signal is aborted.
 *
 * @example
 * ```ts
 * import { scoreCorpus } from "@edgetuner/core/evaluation";
 *
 * const scores = await scoreCorpus({
 *   references: [["A pub near the river .", "There is a pub by the river ."], ["It is cheap ."]],
 *   predictions: ["A pub near the river .", "It is not cheap ."],
 * });
 * scores.BLEU > 0.6; // true
 * ```
 */
export async function scoreCorpus(corpus: Corpus, options: ScoreOptions = {}): Promise<CorpusScores> {
  const { onProgress, signal } = options;
  checkCorpus("score", corpus);
  const pause = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve));
    signal?.throwIfAborted();
  };
  signal?.throwIfAborted();
  const texts = ptbTexts(corpus);
  const scorer = options.meteor === undefined ? null : new MeteorScorer(options.meteor);
  const meteorSegments: number[] = [];
  for (let i = 0; scorer !== null && i < texts.predictions.length; i++) {
    if (i % STRETCH === 0) {
      onProgress?.(i);
      await pause();
    }
    meteorSegments.push(scorer.add(texts.predictions[i]!, texts.references[i]!));
  }
  onProgress?.(texts.predictions.length);
  await pause();
  const rouge = rougeL(texts);
  await pause();
  const similarity = cider(texts);
  await pause();
  const tokens = tokenizeCorpus(corpus);
  await pause();
  const segments = tokens.predictions.map((prediction, i): Scores => {
    const single = { references: [tokens.references[i]!], predictions: [prediction] };
    return {
      BLEU: bleuOfTokens(single).score,
      NIST: nistOfTokens(single),
      METEOR: meteorSegments[i] ?? null,
      ROUGE_L: rouge.segments[i]!,
      CIDEr: similarity.segments[i]!,
    };
  });
  await pause();
  return {
    BLEU: bleuOfTokens(tokens).score,
    NIST: nistOfTokens(tokens),
    METEOR: scorer?.score ?? null,
    ROUGE_L: rouge.score,
    CIDEr: similarity.score,
    segments,
  };
}
