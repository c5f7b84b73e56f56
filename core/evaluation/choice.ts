/**
 * Accuracy on tasks with several answers to choose from, from the log-likelihoods of the answers, as
 * EleutherAI's lm-evaluation-harness computes it.
 *
 * @module
 */

/** A question with the log-likelihood of each answer. */
export interface ScoredChoice {
  /** Sum of the log-probabilities of the answer's tokens, shape [number of answers]. */
  readonly logLikelihoods: readonly number[];
  /** Index of the right answer. */
  readonly gold: number;
  /** Length of each answer in characters, for the normalised accuracy. Shape [number of answers]. */
  readonly lengths?: readonly number[];
}

/** A mean and how far it can be trusted. */
export interface MeanWithError {
  /** The mean. */
  readonly mean: number;
  /** Standard error of the mean; NaN for a single question. */
  readonly standardError: number;
}

/** How often the likeliest answer was right. */
export interface ChoiceScores {
  /** By the sum of log-probabilities. Winogrande is reported so. */
  readonly accuracy: MeanWithError;
  /** By that sum per character; null unless lengths are known. OpenBookQA is usually reported so. */
  readonly normalisedAccuracy: MeanWithError | null;
}

/**
 * Computes accuracies. Of answers that are equally likely the first one is taken.
 *
 * @param choices The questions.
 * @returns Shares in [0, 1].
 * @throws {RangeError} If there is no question, or the values of one do not fit together.
 *
 * @example
 * ```ts
 * import { choiceAccuracy } from "@edgetuner/core/evaluation";
 *
 * const { accuracy } = choiceAccuracy([
 *   { logLikelihoods: [-3.1, -7.4], gold: 0 },
 *   { logLikelihoods: [-2.0, -2.5], gold: 1 },
 * ]);
 * accuracy.mean; // 0.5
 * ```
 */
export function choiceAccuracy(choices: readonly ScoredChoice[]): ChoiceScores {
  if (choices.length === 0) {
    throw new RangeError("Cannot compute accuracy as there must be at least one question: there is none");
  }
  const hits: number[] = [];
  const normalisedHits: number[] = [];
  choices.forEach((choice, i) => {
    const { logLikelihoods, gold, lengths } = choice;
    checkChoice(choice, i);
    hits.push(largest(logLikelihoods) === gold ? 1 : 0);
    if (lengths) normalisedHits.push(largest(logLikelihoods.map((v, k) => v / lengths[k]!)) === gold ? 1 : 0);
  });
  return {
    accuracy: meanWithError(hits),
    normalisedAccuracy: normalisedHits.length === choices.length ? meanWithError(normalisedHits) : null,
  };
}

function checkChoice({ logLikelihoods, gold, lengths }: ScoredChoice, i: number): void {
  const fail = (rule: string, value: unknown): never => {
    throw new RangeError(
      `Cannot compute accuracy, question ${i + 1}, as ${rule}: current value is ${JSON.stringify(value)}`,
    );
  };
  if (!logLikelihoods.every((value) => value <= 0)) {
    fail("log-likelihoods must be numbers of at most 0", logLikelihoods.map(String));
  }
  if (!Number.isInteger(gold) || gold < 0 || gold >= logLikelihoods.length) {
    fail(`'gold' must be the index of one of ${logLikelihoods.length} answers`, gold);
  }
  if (lengths && (lengths.length !== logLikelihoods.length || !lengths.every((length) => length > 0))) {
    fail("'lengths' must hold a positive length for each answer", lengths);
  }
}

/** Index of the largest value, the first one of equals. */
function largest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

function meanWithError(values: readonly number[]): MeanWithError {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1);
  return { mean, standardError: Math.sqrt(variance / count) };
}
