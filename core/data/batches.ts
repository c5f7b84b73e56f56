/**
 * From texts to batches of tokens.
 *
 * B sequences of a batch, T tokens of a sequence.
 *
 * @module
 */

import type { SequenceSet } from "./sequences.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { fitSequences, withBos } from "./fit_sequences.ts";
import type { TextPair } from "./pairs.ts";
import type { TokenBatch } from "../model/loss.ts";
import { permutation, randomStream } from "../model/random.ts";

/**
 * What is the same for the same sequences drawn in the same way, and differs for any others: a run may only go
 * on with the data that it began with.
 *
 * @param set The sequences.
 * @param drawing How batches are drawn from them, and all else that must not change; JSON.
 * @returns 64 hexadecimal digits.
 */
export async function dataFingerprint(set: SequenceSet, drawing: unknown): Promise<string> {
  const { sequences, length, padding } = set;
  const notes = JSON.stringify({
    drawing,
    length,
    padding,
    sequences: sequences.map(({ tokens, firstTarget, counts }) => [
      tokens.length,
      firstTarget,
      counts === undefined ? null : Array.from(counts).join(""),
    ]),
  });
  const tokens = new Uint32Array(sequences.reduce((sum, { tokens }) => sum + tokens.length, 0));
  let at = 0;
  for (const sequence of sequences) {
    tokens.set(sequence.tokens, at);
    at += sequence.tokens.length;
  }
  const digest = async (bytes: Uint8Array<ArrayBuffer>) =>
    new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const both = [await digest(new TextEncoder().encode(notes)), await digest(new Uint8Array(tokens.buffer))];
  return (await digest(Uint8Array.from(both.flatMap((bytes) => [...bytes])))).toHex();
}

/** How to encode pairs. */
export interface PairEncoding {
  /** T, tokens of a sequence. */
  readonly length: number;
  /** True to learn the prompts too, not only the completions. @default {false} */
  readonly trainOnPrompt?: boolean;
}

function checkInteger(action: string, name: string, value: number, lowest: number): void {
  if (!Number.isSafeInteger(value) || value < lowest) {
    throw new RangeError(
      `Cannot ${action} as '${name}' must be an integer of at least ${lowest}: current value is ${value}`,
    );
  }
}

/**
 * Encodes the prompt of a pair the way a model is fine-tuned on it, `[bos] prompt eos`: the tokens of the prompt,
 * after the token that begins texts if the model has one, then the end-of-text token as the sign that the
 * completion begins. A model that was not tuned on pairs does not know that sign: see {@linkcode encodeOpening}.
 *
 * @param tokenizer The tokenizer.
 * @param prompt The prompt.
 * @returns Token ids.
 */
export function encodePrompt(tokenizer: Tokenizer, prompt: string): number[] {
  return [...withBos(tokenizer, tokenizer.encode(prompt)), tokenizer.eos];
}

/**
 * Encodes the beginning of a text that a model is to go on with as it is, `[bos] text`, without a sign that
 * something new begins: for a base model alone, or one that was tuned on plain texts.
 *
 * @param tokenizer The tokenizer.
 * @param text The beginning. If it is empty, the token that begins texts takes its place, or else the one that
 * ends them, so that there is something to go on from.
 * @returns Token ids, at least one.
 * @category Model and data
 *
 * @example
 * ```ts
 * import { encodeOpening } from "@edgetuner/core";
 *
 * const letters = {
 *   vocabSize: 128,
 *   eos: 0,
 *   bos: 1,
 *   encode: (text: string) => Array.from(text, (letter) => letter.charCodeAt(0)),
 *   decode: (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids)),
 * };
 * encodeOpening(letters, "ab"); // [1, 97, 98]
 * ```
 */
export function encodeOpening(tokenizer: Tokenizer, text: string): number[] {
  const tokens = withBos(tokenizer, tokenizer.encode(text));
  return tokens.length > 0 ? tokens : [tokenizer.eos];
}

/**
 * Encodes a completion the way a model is fine-tuned on it: the tokens of the text with a space before it,
 * then the end-of-text token.
 *
 * @param tokenizer The tokenizer.
 * @param completion The completion.
 * @returns Token ids.
 */
export function encodeCompletion(tokenizer: Tokenizer, completion: string): number[] {
  return [...tokenizer.encode(` ${completion}`), tokenizer.eos];
}

/**
 * Encodes pairs for fine-tuning, `[bos] prompt eos completion eos`: `bos` begins texts where the model has such a
 * token, `eos` ends them.
 *
 * The loss counts on the completion and the end-of-text after it. What is too long loses the start of the
 * prompt, but not `bos`, down to half of the sequence; if that is not enough, the end of the completion. So every
 * sequence has something to learn, and something to learn it from.
 *
 * @param pairs The data.
 * @param tokenizer The tokenizer.
 * @param encoding T, and whether prompts are learnt too.
 * @returns One sequence per pair.
 * @throws {RangeError} If T is not a positive integer.
 * @category Model and data
 *
 * @example
 * ```ts
 * import { encodePairs } from "@edgetuner/core";
 *
 * const letters = {
 *   vocabSize: 128,
 *   eos: 0,
 *   bos: null,
 *   encode: (text: string) => Array.from(text, (letter) => letter.charCodeAt(0)),
 *   decode: (ids: ArrayLike<number>) => String.fromCharCode(...Array.from(ids)),
 * };
 * const set = encodePairs([{ prompt: "ab", completion: "c" }], letters, { length: 8 });
 * set.sequences[0]; // { tokens: [97, 98, 0, 32, 99, 0], firstTarget: 3 }
 * ```
 */
export function encodePairs(
  pairs: readonly TextPair[],
  tokenizer: Tokenizer,
  encoding: PairEncoding,
): SequenceSet {
  const { length, trainOnPrompt = false } = encoding;
  checkInteger("encode pairs", "length", length, 1);
  const drafts = pairs.map(({ prompt, completion }) => {
    const given = encodePrompt(tokenizer, prompt);
    return {
      tokens: [...given, ...encodeCompletion(tokenizer, completion)],
      given: given.length,
      keepFirst: tokenizer.bos !== null,
    };
  });
  return fitSequences(drafts, { length, padding: tokenizer.eos, trainOnPrompt });
}

/** How to cut windows. */
export interface WindowEncoding {
  /** T, tokens of a window. */
  readonly length: number;
}

/**
 * Encodes documents for language-model training, `[bos] text eos [bos] text eos ...` cut in windows of T tokens, in
 * which every token counts but those that begin a text. The rest after the last whole window is left out.
 *
 * @param documents The texts.
 * @param tokenizer The tokenizer.
 * @param encoding T.
 * @returns One sequence per window.
 * @throws {RangeError} If T is not a positive integer, or the documents do not fill one window.
 */
export function encodeWindows(
  documents: Iterable<string>,
  tokenizer: Tokenizer,
  encoding: WindowEncoding,
): SequenceSet {
  const { length } = encoding;
  checkInteger("encode windows", "length", length, 1);
  const row: number[] = [];
  const begins: number[] = [];
  for (const document of documents) {
    if (tokenizer.bos !== null) begins.push(row.length);
    for (const id of withBos(tokenizer, tokenizer.encode(document))) row.push(id);
    row.push(tokenizer.eos);
  }
  // The last token of a window is only a target; it is given to the model in the next window.
  const count = Math.floor((row.length - 1) / length);
  if (count < 1) {
    throw new RangeError(
      `Cannot encode windows as the documents must have at least ${
        length + 1
      } tokens: current value is ${row.length}`,
    );
  }
  const tokens = Uint32Array.from(row);
  const counts = tokenizer.bos === null ? null : new Uint8Array(row.length).fill(1);
  for (const place of begins) counts![place] = 0;
  const sequences = Array.from({ length: count }, (_, i) => {
    const [start, end] = [i * length, (i + 1) * length + 1];
    return {
      tokens: tokens.subarray(start, end),
      firstTarget: 1,
      ...(counts ? { counts: counts.subarray(start, end) } : {}),
    };
  });
  return {
    sequences,
    length,
    padding: tokenizer.eos,
    shortened: 0,
    shortenedPrompts: 0,
    shortenedCompletions: 0,
    droppedTokens: row.length - 1 - count * length,
  };
}

/** Puts some sequences of a set in a batch, padded to `length`. */
function makeBatch(
  { sequences, padding }: SequenceSet,
  indices: ArrayLike<number>,
  length: number,
): TokenBatch {
  const batch = indices.length;
  const tokens = new Uint32Array(batch * length).fill(padding);
  const targets = new Uint32Array(batch * length).fill(padding);
  const mask = new Float32Array(batch * length);
  for (let b = 0; b < batch; b++) {
    const { tokens: sequence, firstTarget, counts } = sequences[indices[b]!]!;
    const start = b * length;
    tokens.set(sequence.subarray(0, -1), start);
    targets.set(sequence.subarray(1), start);
    if (counts) mask.set(counts.subarray(1), start);
    else mask.fill(1, start + firstTarget - 1, start + sequence.length - 1);
  }
  return { tokens, targets, mask, batch, length };
}

function checkSet(action: string, { sequences }: SequenceSet, batch: number): void {
  checkInteger(action, "batch", batch, 1);
  if (sequences.length === 0) {
    throw new RangeError(`Cannot ${action} as the set must hold at least one sequence: it is empty`);
  }
}

/**
 * Makes batches in the order of the data, each sequence once: for validation.
 *
 * @param set The sequences.
 * @param batch B; the last batch is smaller if B does not divide the number of sequences.
 * @returns All batches, of shape [B * T].
 * @throws {RangeError} If B is not a positive integer, or the set is empty.
 */
export function fixedBatches(set: SequenceSet, batch: number): TokenBatch[] {
  checkSet("make batches", set, batch);
  const count = set.sequences.length;
  return Array.from({ length: Math.ceil(count / batch) }, (_, i) => {
    const start = i * batch;
    const indices = Array.from({ length: Math.min(batch, count - start) }, (_, j) => start + j);
    return makeBatch(set, indices, set.length);
  });
}

/** Which batches to draw. */
export interface ShuffleSettings {
  /** B, sequences of a batch. */
  readonly batch: number;
  /** An integer in [0, 2^32): the order is a function of the seed alone. */
  readonly seed: number;
  /**
   * Sequences of like length come together, and a batch is padded only to its longest one, rounded up to a
   * multiple of this: fewer places without text, and few sizes of tensors. 0 pads all to T.
   *
   * @default {0}
   */
  readonly padToMultipleOf?: number;
}

/** An endless row of batches whose place can be read and set. */
export interface BatchStream {
  /** How many batches have been drawn: the whole state. Set it to go to any place of the row. */
  position: number;
  /** In which epoch the next batch begins, from 0 on; with a fraction. */
  readonly epoch: number;
  /**
   * Draws the next batch.
   *
   * @returns The batch, of shape [B * T], or with a smaller T if lengths are bucketed.
   */
  next(): TokenBatch;
}

/** The stream number of the order of the data; other uses of the same seed take others. */
const ORDER_STREAM = 0x6f726465;

/** The stream number of the order of batches whose lengths are alike. */
const BUCKET_STREAM = 0x6275636b;

/** Words between the epochs' orders in the random stream, more than any order takes. */
const EPOCH_WORDS = 2 ** 32;

/** Batches whose sequences are sorted by length together: enough to find like ones, few enough to stay random. */
const WINDOW = 32;

/**
 * Draws batches without end: all sequences in random order, then all again in another order, and so on. Every
 * batch is full, so one may hold the end of an epoch and the start of the next.
 *
 * @param set The sequences.
 * @param settings B and the seed.
 * @returns The batches, at position 0.
 * @throws {RangeError} If B is not a positive integer, the seed is out of range, or the set is empty.
 * @category Model and data
 */
export function shuffledBatches(set: SequenceSet, settings: ShuffleSettings): BatchStream {
  const { batch, seed, padToMultipleOf = 0 } = settings;
  checkSet("draw batches", set, batch);
  checkInteger("draw batches", "padToMultipleOf", padToMultipleOf, 0);
  const random = randomStream(seed, ORDER_STREAM);
  const count = set.sequences.length;
  let order = new Uint32Array(0);
  let orderEpoch = -1;
  let position = 0;
  const indexAt = (place: number): number => {
    const epoch = Math.floor(place / count);
    if (epoch !== orderEpoch) {
      random.position = epoch * EPOCH_WORDS;
      order = permutation(count, random) as Uint32Array<ArrayBuffer>;
      orderEpoch = epoch;
    }
    return order[place % count]!;
  };
  const inputsOf = (index: number) => set.sequences[index]!.tokens.length - 1;
  const buckets = randomStream(seed, BUCKET_STREAM);
  let sorted: number[] = [];
  let sortedWindow = -1;
  /** The sequences of a batch whose neighbours in the data's random order were sorted by length. */
  const bucketAt = (place: number): number[] => {
    const window = Math.floor(place / WINDOW);
    if (window !== sortedWindow) {
      const first = window * WINDOW * batch;
      const indices = Array.from({ length: WINDOW * batch }, (_, i) => indexAt(first + i))
        .sort((i, j) => inputsOf(i) - inputsOf(j));
      buckets.position = window * EPOCH_WORDS;
      const order = permutation(WINDOW, buckets);
      sorted = Array.from(order).flatMap((b) => indices.slice(b * batch, (b + 1) * batch));
      sortedWindow = window;
    }
    const start = (place % WINDOW) * batch;
    return sorted.slice(start, start + batch);
  };
  return {
    get position() {
      return position;
    },
    set position(value: number) {
      checkInteger("move in the batches", "position", value, 0);
      position = value;
    },
    get epoch() {
      return (position * batch) / count;
    },
    next() {
      const place = position++;
      if (padToMultipleOf === 0) {
        const indices = Array.from({ length: batch }, (_, b) => indexAt(place * batch + b));
        return makeBatch(set, indices, set.length);
      }
      const indices = bucketAt(place);
      const longest = Math.max(...indices.map(inputsOf));
      return makeBatch(
        set,
        indices,
        Math.min(set.length, Math.ceil(longest / padToMultipleOf) * padToMultipleOf),
      );
    },
  };
}
