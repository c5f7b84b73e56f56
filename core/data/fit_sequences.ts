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
 * How many tokens of what is given stay where a sequence has too many: what the rest leaves room for, and at least half
 * of the room, so that a completion that does not fit loses its end and not its prompt. One token is always left to learn.
 */
function keptOfGiven({ tokens, given, keepFirst = false }: UntrimmedSequence, room: number): number {
  const rest = tokens.length - given;
  // At least one beside the token that begins texts: for pairs the sign that the completion begins.
  const least = Math.max(Math.floor(room / 2), Math.min(keepFirst ? 2 : 1, room - 1));
  return Math.min(given, Math.max(room - rest, least));
}

/**
 * Cuts sequences to T + 1 tokens. What is given loses its start, but for the token that begins texts, down to half of
 * the room; what follows loses its end. So every sequence has something to learn, and something to learn it from.
 */
export function fitSequences(drafts: Iterable<UntrimmedSequence>, options: FitOptions): SequenceSet {
  const fitting = new SequenceFitter(options);
  for (const draft of drafts) fitting.add(draft);
  return fitting.finish();
}

/** Cuts sequences one by one, as {@linkcode fitSequences} does, so that no other copy of the data is kept. */
export class SequenceFitter {
  readonly #options: FitOptions;
  readonly #sequences: TokenSequence[] = [];
  #shortened = 0;
  #shortenedPrompts = 0;
  #shortenedCompletions = 0;
  #droppedTokens = 0;

  /** Begins a set. */
  constructor(options: FitOptions) {
    this.#options = options;
  }

  /** Cuts a sequence and takes it in. */
  add(draft: UntrimmedSequence): void {
    const { length, trainOnPrompt } = this.#options;
    const room = length + 1;
    const surplus = Math.max(0, draft.tokens.length - room);
    const first = draft.keepFirst ? 1 : 0;
    const fromStart = surplus === 0 ? 0 : draft.given - keptOfGiven(draft, room);
    this.#droppedTokens += surplus;
    if (surplus > 0) this.#shortened += 1;
    if (fromStart > 0) this.#shortenedPrompts += 1;
    if (surplus > fromStart) this.#shortenedCompletions += 1;
    const cut = <T>(values: readonly T[]): T[] =>
      [...values.slice(0, first), ...values.slice(first + fromStart)].slice(0, room);
    this.#sequences.push({
      tokens: Uint32Array.from(cut(draft.tokens)),
      firstTarget: trainOnPrompt ? 1 : Math.max(1, draft.given - fromStart),
      ...(draft.counts && !trainOnPrompt ? { counts: Uint8Array.from(cut(draft.counts)) } : {}),
    });
  }

  /** The set. */
  finish(): SequenceSet {
    const { length, padding } = this.#options;
    return {
      sequences: this.#sequences,
      length,
      padding,
      shortened: this.#shortened,
      shortenedPrompts: this.#shortenedPrompts,
      shortenedCompletions: this.#shortenedCompletions,
      droppedTokens: this.#droppedTokens,
    };
  }
}
