/**
 * Changes to raw logits before the softmax, in float32 as the reference makes them.
 *
 * V = vocabulary.
 *
 * @module
 */

import { firstNotFinite } from "../files/finite_values.ts";
import { GenerationError } from "../contracts/errors.ts";

/** Which tokens are made less likely or impossible. */
export interface LogitsRules {
  /** Negative logits of tokens generated before are multiplied by it, others divided; 1 = off. */
  readonly repetitionPenalty: number;
  /** No n-gram of this length may occur twice among the generated tokens; 0 = off. */
  readonly noRepeatNgramSize: number;
  /**
   * Tokens that must be generated before an end token may come: with 2 the shortest answer is two tokens and an end
   * token. The prompt does not count. The same for `sample`, with or without a temperature, and for `beamSearch`.
   */
  readonly minLength: number;
  /** Tokens that end a text. */
  readonly endTokens: readonly number[];
}

/**
 * Checks logits as the model gave them, before any rule.
 *
 * @param logits Of one row or several, [V] each.
 * @param tokens Tokens of the text so far, the prompt's too.
 * @throws {GenerationError} If one is not finite.
 */
export function requireFiniteLogits(logits: Float32Array, tokens: number): void {
  const bad = firstNotFinite(logits);
  if (bad < 0) return;
  throw new GenerationError(
    `Cannot generate as the logits must be finite: after ${tokens} tokens one is ${
      logits[bad]
    }; look at the model's weights, the adapter and the codec`,
  );
}

/**
 * Applies the rules to the logits of one row, in place: repetition penalty, minimum length, n-grams.
 *
 * @param logits [V]
 * @param generated Tokens generated so far; the prompt does not count.
 */
export function applyRules(logits: Float32Array, generated: readonly number[], rules: LogitsRules): void {
  const { repetitionPenalty, noRepeatNgramSize: size, minLength, endTokens } = rules;
  if (repetitionPenalty !== 1) {
    for (const token of new Set(generated)) {
      const logit = logits[token]!;
      logits[token] = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
    }
  }
  if (generated.length < minLength) { for (const token of endTokens) logits[token] = -Infinity; }
  if (size > 0) { for (const token of blockedTokens(generated, size)) logits[token] = -Infinity; }
}

/** Tokens that would complete an n-gram which is already there. */
function blockedTokens(generated: readonly number[], size: number): Set<number> {
  const blocked = new Set<number>();
  const begin = generated.length - (size - 1);
  if (begin < 0) return blocked;
  for (let i = 0; i + size <= generated.length; i++) {
    let same = true;
    for (let k = 0; k < size - 1 && same; k++) same = generated[i + k] === generated[begin + k];
    if (same) blocked.add(generated[i + size - 1]!);
  }
  return blocked;
}

/** log(softmax(logits)) of one row, in place. */
export function logSoftmax(logits: Float32Array): void {
  let highest = -Infinity;
  for (const x of logits) if (x > highest) highest = x;
  let sum = 0;
  for (const x of logits) sum += Math.exp(x - highest);
  const shift = highest + Math.log(sum);
  for (let i = 0; i < logits.length; i++) logits[i] = logits[i]! - shift;
}
