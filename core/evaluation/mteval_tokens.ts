/**
 * Tokens for BLEU and NIST: NIST's mteval-v13a for western languages, as the E2E challenge uses it.
 *
 * @module
 */

import { collapse } from "../files/text.ts";

/** Each pass goes once from left to right and consumes what it matches: in ".." only every second mark meets the first comma rule. */
const PASSES: readonly (readonly [pattern: RegExp, replacement: string])[] = [
  [/<skipped>/g, ""],
  [/-\n/g, ""],
  [/\n/g, " "],
  [/&quot;/g, '"'],
  [/&amp;/g, "&"],
  [/&lt;/g, "<"],
  [/&gt;/g, ">"],
  [/^|$/g, " "],
  [/([{-~[-` -&(-+:-@/])/g, " $1 "],
  [/([^0-9])([.,])/g, "$1 $2 "],
  [/([.,])([^0-9])/g, " $1 $2"],
  [/([0-9])(-)/g, "$1 $2 "],
];

/**
 * Splits a text as mteval-v13a does: punctuation apart from hyphens and apostrophes inside words, and from
 * points and commas inside numbers, is on its own.
 *
 * @param text The text.
 * @param options `caseSensitive` keeps capitals.
 * @returns The tokens, in lower case unless asked otherwise; one empty token for an empty text.
 */
export function mtevalTokens(text: string, options: { readonly caseSensitive?: boolean } = {}): string[] {
  for (const [pattern, replacement] of PASSES) text = text.replace(pattern, replacement);
  const tokens = collapse(text);
  return (options.caseSensitive ? tokens : tokens.toLowerCase()).split(" ");
}
