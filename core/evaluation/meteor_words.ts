/**
 * Words as METEOR 1.5 sees them with its option `-norm`: Moses' tokeniser with hyphens taken out of words.
 *
 * @module
 */

import type { MeteorData } from "./meteor_data.ts";

const LETTERS =
  "A-Za-zŠŽšžŸÀ-ÖØ-öø-ž\\u0400-\\u04ff\\u0500-\\u0527\\ua640-\\ua66e\\ua67e-\\ua697\\u1d00-\\u1d7f";
const ALNUM = `0-9${LETTERS}`;

/** Before dots are looked at; the order matters, and each pass goes once from left to right. */
const PASSES: readonly (readonly [pattern: RegExp, replacement: string])[] = [
  // Everything but letters, digits and the marks that may be inside words stands alone.
  [new RegExp(`([^${ALNUM} \\t-\\r.'\`,\\-‘’])`, "gu"), " $1 "],
  // A run of dots is a word; a private-use character stands for a dot that is to stay.
  [/\.(?=\.)|(?<=\.)\./g, "\ue000"],
  [/\ue000+/g, " $& "],
  [/([^0-9]),([^0-9])/g, "$1 , $2"],
  [/([0-9]),([^0-9])/g, "$1 , $2"],
  [/([^0-9]),([0-9])/g, "$1 , $2"],
  [/[`‘’]/g, "'"],
  [/[“”]|''/g, ' " '],
  [/–/g, "-"],
  [/--/g, "-"],
  [new RegExp(`([${ALNUM}.])-([${ALNUM}])`, "g"), "$1 $2"],
  // Clitics begin with their apostrophe.
  [new RegExp(`([^${LETTERS}])'([^${LETTERS}])`, "g"), "$1 ' $2"],
  [new RegExp(`([^${ALNUM}])'([${LETTERS}])`, "g"), "$1 ' $2"],
  [new RegExp(`([${LETTERS}])'([^${LETTERS}])`, "g"), "$1 ' $2"],
  [new RegExp(`([${LETTERS}])'([${LETTERS}])`, "g"), "$1 '$2"],
  [/([0-9])'(s)/g, "$1 '$2"],
];

/**
 * Splits a text into METEOR's words.
 *
 * @param text A text, tokenised or not.
 * @param prefixes Words that keep their full stop.
 * @returns The words, in lower case.
 */
export function meteorWords(text: string, prefixes: MeteorData["prefixes"]): string[] {
  let line = ` ${text} `;
  for (const [pattern, replacement] of PASSES) line = line.replace(pattern, replacement);
  const words = line.split(/[ \t\n\r\f]+/).filter((word) => word !== "");
  return words.map((word, i) => {
    if (word.length === 1 || !word.endsWith(".")) return word;
    const stem = word.slice(0, -1);
    // "u.s." is to match "us".
    if (stem.includes(".") && new RegExp(`[${LETTERS}]`).test(stem)) return word.replaceAll(".", "");
    const next = words[i + 1] ?? "";
    const kept = prefixes.get(stem) === "always" || /^[a-z]/.test(next) ||
      (prefixes.get(stem) === "number" && /^[0-9]/.test(next));
    return kept ? word : `${stem} .`;
  }).join(" ").replaceAll("\ue000", ".").toLowerCase().split(/\s+/).filter((word) => word !== "");
}
