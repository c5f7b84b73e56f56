/**
 * Sequences of tokens made to fit.
 *
 * @module
 */

import type { SequenceSet, TokenSequence } from "./sequences.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Puts the token that begins a text first, where the model has one and it is not there already. */
export function withBos({ bos }: Pick<Tokenizer, "bos">, tokens: readonly number[]): number[] {
  return bos === null || tokens[0] === bos ? [...tokens] : [bos, ...tokens];
}

/** A sequence of any length. */
export interface UntrimmedSequence {
  readonly tokens: readonly number[];
  /** True if the first token begins every text of the model, so that it stays whatever is cut. @default {false} */
  readonly keepFirst?: boolean;
  /** How many tokens come before the first one that is to be learnt. */
  readonly given: number;
  /** For tokens from there on: 1 if it is to be learnt. @default all are */
  readonly counts?: readonly number[];
}

/** What sequences are made to fit. */
export interface FitOptions {
  /** T. */
  readonly length: number;
  /** Token that fills up shorter sequences. */
  readonly padding: number;
  /** True if everything is to be learnt. */
  readonly trainOnPrompt: boolean;
}

/**
 * Cuts sequences to T + 1 tokens: what is too long loses the start of what is given, but for the token that begins
 * texts; if that is not enough, the end. So every sequence has something to learn.
 */
export function fitSequences(
  drafts: readonly UntrimmedSequence[],
  { length, padding, trainOnPrompt }: FitOptions,
): SequenceSet {
  let shortened = 0, shortenedPrompts = 0, shortenedCompletions = 0, droppedTokens = 0;
  const sequences = drafts.map((draft): TokenSequence => {
    const surplus = Math.max(0, draft.tokens.length - (length + 1));
    const first = draft.keepFirst ? 1 : 0;
    // One more of what is given stays: for pairs the sign that the completion begins.
    const fromStart = Math.min(surplus, Math.max(0, draft.given - Math.min(first + 1, length)));
    droppedTokens += surplus;
    if (surplus > 0) shortened += 1;
    if (fromStart > 0) shortenedPrompts += 1;
    if (surplus > fromStart) shortenedCompletions += 1;
    const cut = <T>(values: readonly T[]): T[] =>
      [...values.slice(0, first), ...values.slice(first + fromStart)].slice(0, length + 1);
    return {
      tokens: Uint32Array.from(cut(draft.tokens)),
      firstTarget: trainOnPrompt ? 1 : Math.max(1, draft.given - fromStart),
      ...(draft.counts && !trainOnPrompt ? { counts: Uint8Array.from(cut(draft.counts)) } : {}),
    };
  });
  return { sequences, length, padding, shortened, shortenedPrompts, shortenedCompletions, droppedTokens };
}
