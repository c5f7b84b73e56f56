/**
 * Beam search with the semantics of the reference (LoRA's NLG example): every step takes the best
 * continuations of all beams; a beam that ends competes for the answer by its length-normalised
 * score and makes room; always `maxNewTokens` steps.
 *
 * @module
 */

import { numberCheck } from "../contracts/check_number.ts";
import { applyRules, type LogitsRules, logSoftmax, requireFiniteLogits } from "./logits.ts";
import type { DecodingSession } from "./model.ts";

/** Options of `beamSearch`. */
export interface BeamSearchOptions extends Partial<LogitsRules> {
  /** Continuations kept side by side. @default {10} */
  readonly beams?: number;
  /** The score of a text is divided by its length to this power. @default {0.8} */
  readonly lengthPenalty?: number;
  /** No n-gram of this length twice among the generated tokens; 0 = off. @default {4} */
  readonly noRepeatNgramSize?: number;
  /** Steps, and the most tokens of an answer. */
  readonly maxNewTokens: number;
  /** Tokens that end a text; at least one. */
  readonly endTokens: readonly number[];
  /** Ends the search with an error. */
  readonly signal?: AbortSignal | undefined;
}

/** What a beam search found. */
export interface BeamSearchResult {
  /** The answer's tokens, with the end token if it has one. */
  readonly tokens: readonly number[];
  /** Its log-probability divided by length^lengthPenalty. */
  readonly score: number;
  /** The best score after each step; `null` while no text had ended. */
  readonly scores: readonly (number | null)[];
}

interface Beam {
  readonly tokens: readonly number[];
  /** Sum of log-probabilities; -Infinity once the beam has ended. */
  readonly score: number;
}

const f32 = Math.fround;

function checked(options: BeamSearchOptions, session: DecodingSession, prompt: readonly number[]) {
  const {
    beams = 10,
    lengthPenalty = 0.8,
    noRepeatNgramSize = 4,
    repetitionPenalty = 1,
    minLength = 0,
    maxNewTokens,
    endTokens,
  } = options;
  const check = numberCheck("search");
  const whole = (least: number) => (x: number) => Number.isInteger(x) && x >= least;
  const { vocabulary } = session;
  check("beams", beams, `an integer from 1 to ${vocabulary}`, (n) => whole(1)(n) && n <= vocabulary);
  check("lengthPenalty", lengthPenalty, "finite", Number.isFinite);
  check("noRepeatNgramSize", noRepeatNgramSize, "an integer of at least 0", whole(0));
  check("repetitionPenalty", repetitionPenalty, "positive", (x) => x > 0 && x < Infinity);
  check("minLength", minLength, "an integer of at least 0", whole(0));
  check("maxNewTokens", maxNewTokens, "an integer of at least 1", whole(1));
  check("number of end tokens", endTokens.length, "at least 1", whole(1));
  for (const token of endTokens) {
    check("end token", token, `below the vocabulary (${vocabulary})`, (t) => whole(0)(t) && t < vocabulary);
  }
  const room = session.contextLength - prompt.length;
  check("prompt length", prompt.length, "at least 1", whole(1));
  // The last token needs no place: nothing is computed from it.
  const most = room + 1;
  check("maxNewTokens", maxNewTokens, `at most ${most}, what the model has room for`, (n) => n <= most);
  return { beams, lengthPenalty, noRepeatNgramSize, repetitionPenalty, minLength, maxNewTokens, endTokens };
}

/** The `count` best of all rows' entries, best first; the first of equal ones wins. */
function best(
  scores: readonly Float32Array[],
  count: number,
): { row: number; token: number; score: number }[] {
  const top: { row: number; token: number; score: number }[] = [];
  scores.forEach((values, row) => {
    for (let token = 0; token < values.length; token++) {
      const score = values[token]!;
      if (top.length === count && !(score > top[count - 1]!.score)) continue;
      let at = top.length;
      while (at > 0 && score > top[at - 1]!.score) at--;
      top.splice(at, 0, { row, token, score });
      if (top.length > count) top.pop();
    }
  });
  return top;
}

/**
 * Searches for the best continuation of a prompt.
 *
 * @param session A fresh session of the model.
 * @param prompt Tokens, at least one.
 * @param options Beams, penalties and length.
 * @throws {RangeError} If an option is out of range or the model has no room.
 * @throws {GenerationError} If the model gives logits that are not finite.
 * @throws The signal's reason, if it is aborted.
 * @category Generation
 *
 * @example
 * ```ts
 * import { beamSearch, CachedSession, encodeOpening, loadEmbeddingAndHead, loadLayers, openModel } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * const { model, tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * using layers = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * using session = new CachedSession({ engine, layers, ends, heads: null });
 * const prompt = encodeOpening(tokenizer, "The Crooked Heron is");
 * const { tokens } = await beamSearch(session, prompt, { beams: 2, maxNewTokens: 4, endTokens: [tokenizer.eos] });
 * console.log(tokenizer.decode(tokens));
 * ```
 */
export async function beamSearch(
  session: DecodingSession,
  prompt: readonly number[],
  options: BeamSearchOptions,
): Promise<BeamSearchResult> {
  const settings = checked(options, session, prompt);
  const { beams: count, lengthPenalty, maxNewTokens, endTokens } = settings;
  const ends = new Set(endTokens);
  const answer: { tokens: readonly number[]; score: number | null } = { tokens: [], score: null };
  const compete = ({ tokens, score }: Beam) => {
    const normalised = f32(score / tokens.length ** lengthPenalty);
    if (answer.score === null || normalised > answer.score) {
      answer.score = normalised;
      answer.tokens = tokens;
    }
  };
  const scores: (number | null)[] = [];
  // The search begins with one row: the prompt.
  let beams: Beam[] = [{ tokens: [], score: 0 }];
  let logits = await session.start(prompt);
  for (let step = 0;; step++) {
    options.signal?.throwIfAborted();
    requireFiniteLogits(logits, prompt.length + step);
    const rows = beams.map(({ tokens, score }, i) => {
      const row = logits.subarray(i * session.vocabulary, (i + 1) * session.vocabulary);
      applyRules(row, tokens, settings);
      logSoftmax(row);
      for (let token = 0; token < row.length; token++) row[token] = score + row[token]!;
      return row;
    });
    const chosen = best(rows, count);
    const extended = chosen.map(({ row, token, score }) => ({
      tokens: [...beams[row]!.tokens, token],
      score,
    }));
    beams = extended.map((beam) => {
      if (!ends.has(beam.tokens.at(-1)!)) return beam;
      if (beam.score > -Infinity) compete(beam);
      return { ...beam, score: -Infinity };
    });
    scores.push(answer.score);
    if (step + 1 === maxNewTokens) break;
    logits = await session.append(chosen.map((c) => c.token), chosen.map((c) => c.row));
  }
  for (const beam of beams) if (beam.score > -Infinity) compete(beam);
  return { tokens: answer.tokens, score: answer.score ?? -Infinity, scores };
}
