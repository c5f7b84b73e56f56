/**
 * Patterns of pre-tokenizers as the tokenizers package, in Rust, understands them: white space and digits are those
 * of Unicode there. JavaScript's `\s` has a byte order mark too, and its `\d` only ten digits.
 *
 * @module
 */

import { ByteLevelPreTokenizer, DigitsPreTokenizer, SequencePreTokenizer } from "@huggingface/tokenizers";

const SPACE = "\\p{White_Space}";
const GPT2 = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  "gu",
);

/** Gives pre-tokenizers their patterns anew, those within sequences too. */
export function mendPatterns(step: unknown): void {
  if (step instanceof SequencePreTokenizer) step.tokenizers.forEach(mendPatterns);
  if (step instanceof ByteLevelPreTokenizer) step.pattern = GPT2;
  if (step instanceof DigitsPreTokenizer) {
    const { individual_digits: isEach } = step.config as { individual_digits?: boolean };
    step.pattern = new RegExp(`\\P{N}+|\\p{N}${isEach ? "" : "+"}`, "gu");
  }
}
