/**
 * How many slots of meaning representations a text realises.
 *
 * @module
 */

import { phrasesOf, type Slot, SLOTS } from "./restaurant/guide_entries.ts";

/** Slots that a text should realise, and how many it does. */
export interface SlotCount {
  /** Slots realised. */
  readonly right: number;
  /** Slots in all. */
  readonly all: number;
}

/**
 * Takes a meaning representation apart.
 *
 * @param representation `name[Kivo], eatType[pub]`.
 * @returns Slots and values in order; nothing if the text has another form.
 */
export function parseSlots(representation: string): [slot: string, value: string][] {
  return Array.from(
    representation.matchAll(/([^,[\]]+)\[([^\]]*)\]/g),
    ([, slot, value]) => [slot!.trim(), value!],
  );
}

/** Whether a phrase stands in a text, not as a part of longer words. */
function has(text: string, phrase: string): boolean {
  const escaped = phrase.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, "u").test(text);
}

function isRight(slot: string, value: string, text: string): boolean {
  if (!SLOTS.some((known) => known === slot)) return has(text, value);
  const phrases = phrasesOf(slot as Slot);
  const said = [...phrases].filter(([, ways]) => ways.some((way) => has(text, way))).map(([other]) => other);
  return phrases.has(value) ? said.length === 1 && said[0] === value : has(text, value);
}

/**
 * Counts the slots that texts realise. A slot of the restaurant task is right if the text says its value in
 * one of the ways of a guide-book entry and says no other value of that slot; any other slot is right if
 * its value occurs.
 *
 * @param representations What to say.
 * @param texts What was said, one for each.
 */
export function countSlots(representations: readonly string[], texts: readonly string[]): SlotCount {
  let right = 0, all = 0;
  representations.forEach((representation, i) => {
    for (const [slot, value] of parseSlots(representation)) {
      all++;
      if (isRight(slot, value, texts[i] ?? "")) right++;
    }
  });
  return { right, all };
}
