/**
 * What is scored: one prediction for each instance, and the texts it is compared with.
 *
 * @module
 */

/** N predictions with their references. */
export interface Corpus {
  /** The references of each instance, shape [N][at least 1]. */
  readonly references: readonly (readonly string[])[];
  /** The prediction of each instance, shape [N]; may be empty texts. */
  readonly predictions: readonly string[];
}

/** A score of a corpus and of each of its instances. */
export interface ScoreWithSegments {
  /** Score of the whole. */
  readonly score: number;
  /** Score of each instance, shape [N]. */
  readonly segments: readonly number[];
}

/**
 * Checks that a corpus can be scored.
 *
 * @param action What is to be done, for the message.
 * @param corpus The texts.
 * @throws {RangeError} If it is empty, the counts differ, or an instance has no reference.
 */
export function checkCorpus(action: string, corpus: Corpus): void {
  const { references, predictions } = corpus;
  if (predictions.length === 0) {
    throw new RangeError(`Cannot ${action} as there must be at least one prediction: there is none`);
  }
  if (references.length !== predictions.length) {
    throw new RangeError(
      `Cannot ${action} as every instance must have one prediction: there are ${references.length} instances ` +
        `and ${predictions.length} predictions`,
    );
  }
  const bare = references.findIndex((texts) => texts.length === 0);
  if (bare >= 0) {
    throw new RangeError(
      `Cannot ${action} as every instance must have a reference: instance ${bare + 1} has none`,
    );
  }
}
