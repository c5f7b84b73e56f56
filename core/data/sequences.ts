/**
 * Token sequences and sets of them: what training data becomes.
 *
 * @module
 */

/** A sequence to learn: each of its tokens predicts the next one. */
export interface TokenSequence {
  /** Token ids, shape [at most T + 1]: all but the last are given to the model, all but the first are targets. */
  readonly tokens: Uint32Array;
  /** Index in `tokens` of the first target that counts for the loss, at least 1. */
  readonly firstTarget: number;
  /** For each token 1 if it counts as a target, shape [tokens]. @default all from the first target on */
  readonly counts?: Uint8Array;
}

/** Sequences that fit in T tokens. */
export interface SequenceSet {
  /** The sequences, in the order of the data. */
  readonly sequences: readonly TokenSequence[];
  /** T, what batches pad the sequences to. */
  readonly length: number;
  /** The token for places without text. */
  readonly padding: number;
  /** How many sequences lost tokens, at their start, their end or both. */
  readonly shortened: number;
  /** How many prompts lost their start, as prompt and completion together were too long. Half of the room is theirs. */
  readonly shortenedPrompts: number;
  /** How many completions lost their end, as they were too long beside what is left of the prompt. */
  readonly shortenedCompletions: number;
  /** How many tokens were left out in all. */
  readonly droppedTokens: number;
}
