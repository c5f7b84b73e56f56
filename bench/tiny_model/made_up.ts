/**
 * Names that nobody can know beforehand: syllables put together.
 *
 * @module
 */

import type { RandomStream } from "@edgetuner/core";
import { pick } from "../../cli/shared/restaurant/random_text.ts";
import { LANDMARKS, PLACES } from "../../cli/shared/restaurant/lexicon.ts";

const SYLLABLES = [
  ...["ka", "lo", "mi", "ra", "ten", "sol", "vi", "dur", "ne", "pa"],
  ...["bel", "to", "ri", "san", "gu", "fe", "lin", "mo", "da", "ze"],
];

const SITES = [
  "Station",
  "Hotel",
  "Market",
  "Museum",
  "Theatre",
  "Park",
  "Church",
  "Library",
  "Hall",
  "Square",
];

/** A word of two or three syllables, with a capital. */
export function madeUp(random: RandomStream): string {
  const word = Array.from({ length: 2 + random.below(2) }, () => pick(SYLLABLES, random)).join("");
  return word[0]!.toUpperCase() + word.slice(1);
}

/** The name of a place to eat: made up wholly, in part or, one time in three, from the lexicon. */
export function placeName(random: RandomStream): string {
  switch (random.below(6)) {
    case 0:
      return madeUp(random);
    case 1:
      return `${madeUp(random)} ${madeUp(random)}`;
    case 2:
      return `The ${madeUp(random)} ${madeUp(random)}`;
    case 3: {
      const [the, , noun] = pick(PLACES.filter((name) => name.startsWith("The ")), random).split(" ");
      return `${the} ${madeUp(random)} ${noun}`;
    }
    default:
      return pick(PLACES, random);
  }
}

/** The name of a place to be near to, every other time made up in part. */
export function landmarkName(random: RandomStream): string {
  return random.below(2) === 0 ? pick(LANDMARKS, random) : `${madeUp(random)} ${pick(SITES, random)}`;
}
