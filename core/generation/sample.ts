/**
 * Generating token by token: the most likely one, or drawn at random.
 *
 * V = vocabulary.
 *
 * @module
 */

import { numberCheck } from "../contracts/check_number.ts";
import { type RandomStream, randomStream } from "../model/random.ts";
import { applyRules, type LogitsRules, logSoftmax, requireFiniteLogits } from "./logits.ts";
import type { DecodingSession } from "./model.ts";

/** Options of `sample`. */
export interface SampleOptions extends Partial<LogitsRules> {
  /** Logits are divided by it; 0 takes the most likely token. @default {0} */
  readonly temperature?: number;
  /** Draw among this many most likely tokens; 0 = all. @default {0} */
  readonly topK?: number;
  /** Draw among the most likely tokens that together have at least this probability. @default {1} */
  readonly topP?: number;
  /** Seed: the same seed gives the same text. @default {0} */
  readonly seed?: number;
  /** Most tokens to generate. */
  readonly maxNewTokens: number;
  /** Tokens that end a text. */
  readonly endTokens: readonly number[];
  /** Ends the generation early with what there is. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Says whether a text may begin so: a token for which it says no is not taken. If it refuses very many, the first of
   * them is taken all the same. @default {any may}
   *
   * @param generated The new tokens, with the one that would be next.
   */
  mayBegin?(generated: readonly number[]): boolean;
  /** Called with each token as it comes. */
  onToken?(token: number): void;
}

/** Tokens that `mayBegin` may refuse at one place. */
const MOST_REFUSED = 200;

/**
 * Continues a prompt until an end token, the length or the model's room is reached. No end token comes before
 * `minLength` tokens have been generated; `maxNewTokens` and the model's room end a text all the same.
 *
 * @param session A fresh session of the model.
 * @param prompt Tokens, at least one.
 * @returns The new tokens, with the end token if one came.
 * @throws {RangeError} If an option is out of range.
 * @throws {GenerationError} If the model gives logits that are not finite.
 * @category Generation
 *
 * @example
 * ```ts
 * import { CachedSession, encodeOpening, loadEmbeddingAndHead, loadLayers, openModel, sample } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * const { model, tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * using layers = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * using session = new CachedSession({ engine, layers, ends, heads: null });
 * const prompt = encodeOpening(tokenizer, "The Crooked Heron is");
 * const tokens = await sample(session, prompt, {
 *   temperature: 0.8,
 *   seed: 1,
 *   maxNewTokens: 4,
 *   endTokens: [tokenizer.eos],
 * });
 * console.log(tokenizer.decode(tokens));
 * ```
 */
export async function sample(
  session: DecodingSession,
  prompt: readonly number[],
  options: SampleOptions,
): Promise<number[]> {
  const { temperature = 0, topK = 0, topP = 1, seed = 0, maxNewTokens, endTokens } = options;
  const { minLength = 0 } = options;
  const check = numberCheck("generate");
  const whole = (least: number) => (x: number) => Number.isInteger(x) && x >= least;
  const { contextLength } = session;
  check("temperature", temperature, "0 or more", (x) => x >= 0 && x < Infinity);
  check("topK", topK, "an integer of at least 0", whole(0));
  check("topP", topP, "above 0 and at most 1", (x) => x > 0 && x <= 1);
  check("minLength", minLength, "an integer of at least 0", whole(0));
  check("maxNewTokens", maxNewTokens, "an integer of at least 1", whole(1));
  check("prompt length", prompt.length, `from 1 to ${contextLength}`, (n) => n >= 1 && n <= contextLength);
  const rules: LogitsRules = {
    repetitionPenalty: options.repetitionPenalty ?? 1,
    noRepeatNgramSize: options.noRepeatNgramSize ?? 0,
    minLength,
    endTokens,
  };
  const random = randomStream(seed, 2);
  const generated: number[] = [];
  let logits = await session.start(prompt);
  while (!options.signal?.aborted) {
    requireFiniteLogits(logits, prompt.length + generated.length);
    applyRules(logits, generated, rules);
    const token = choose(logits, generated, { temperature, topK, topP, random, mayBegin: options.mayBegin });
    generated.push(token);
    options.onToken?.(token);
    const full = prompt.length + generated.length > session.contextLength;
    if (endTokens.includes(token) || generated.length === maxNewTokens || full) break;
    // No further pass: `onToken` may have been what ended it.
    if (options.signal?.aborted) break;
    logits = await session.append([token], [0]);
  }
  return generated;
}

/** Takes the next token, and others in place of those that may not be. */
function choose(
  logits: Float32Array,
  generated: readonly number[],
  { temperature, topK, topP, random, mayBegin }: {
    readonly temperature: number;
    readonly topK: number;
    readonly topP: number;
    readonly random: RandomStream;
    readonly mayBegin: SampleOptions["mayBegin"];
  },
): number {
  const take = () =>
    temperature === 0 ? argmax(logits) : draw(logits.slice(), { temperature, topK, topP }, random.float());
  const first = take();
  if (mayBegin === undefined) return first;
  let token = first;
  for (let refused = 0; !mayBegin([...generated, token]); refused++) {
    if (refused === Math.min(MOST_REFUSED, logits.length - 1)) return first;
    logits[token] = -Infinity;
    token = take();
  }
  return token;
}

/** The first of the largest. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/**
 * Draws a token.
 *
 * @param logits [V]; changed.
 * @param uniform A number in [0, 1).
 */
export function draw(
  logits: Float32Array,
  { temperature, topK, topP }: { readonly temperature: number; readonly topK: number; readonly topP: number },
  uniform: number,
): number {
  for (let i = 0; i < logits.length; i++) logits[i] = logits[i]! / temperature;
  logSoftmax(logits);
  const order = Uint32Array.from(logits, (_, i) => i).sort((i, j) => logits[j]! - logits[i]! || i - j);
  const most = topK === 0 ? order.length : Math.min(topK, order.length);
  let kept = 0, mass = 0, all = 0;
  for (let i = 0; i < most; i++) all += Math.exp(logits[order[i]!]!);
  // The share is one of what top-k left, as the two are applied one after the other.
  while (kept < most && mass < topP * all) mass += Math.exp(logits[order[kept++]!]!);
  let left = uniform * mass;
  for (let i = 0; i < kept; i++) {
    left -= Math.exp(logits[order[i]!]!);
    if (left < 0) return order[i]!;
  }
  return order[kept - 1]!;
}
