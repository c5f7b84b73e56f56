/**
 * The fine-tuning task: a meaning representation in the form of the E2E NLG data, and a crisp guide-book
 * entry that says the same. The base model has seen the words, but neither form.
 *
 * @module
 */

import { type RandomStream, randomStream } from "@edgetuner/core";
import { fill, pick, pickWeighted } from "./random_text.ts";
import { AREAS, KINDS, KITCHENS, LANDMARKS, PRICES, RATINGS, TASK_PLACES } from "./lexicon.ts";

/** The slots in the order in which a meaning representation lists them. */
export const SLOTS = [
  "name",
  "eatType",
  "food",
  "priceRange",
  "customer rating",
  "area",
  "familyFriendly",
  "near",
] as const;

/** A slot of a meaning representation. */
export type Slot = (typeof SLOTS)[number];

/** A meaning representation: `name` and at least two more slots. */
export type Meaning = Partial<Record<Slot, string>> & { readonly name: string };

/** One line of the task. */
export interface GuideEntry {
  /** The meaning, as data. */
  readonly meaning: Meaning;
  /** The meaning, as written: `name[Kivo], eatType[pub], priceRange[high], area[harbour]`. */
  readonly representation: string;
  /** The entry: `Kivo: harbour pub; prices high.` */
  readonly text: string;
}

const VALUES: Readonly<Record<Slot, readonly string[]>> = {
  "name": TASK_PLACES,
  "eatType": KINDS,
  "food": KITCHENS.map(([food]) => food),
  "priceRange": PRICES,
  "customer rating": RATINGS,
  "area": AREAS.map(([area]) => area),
  "familyFriendly": ["yes", "no"],
  "near": LANDMARKS,
};

// Most entries say what the place is, few are very short or complete.
const COUNTS = [[3, 2], [4, 4], [5, 6], [6, 6], [7, 4], [8, 2]] as const;
const EAT_TYPE_SHARE = 0.9;

/** Writes a meaning as a meaning representation. */
export function representation(meaning: Meaning): string {
  return SLOTS.filter((slot) => meaning[slot] !== undefined).map((slot) => `${slot}[${meaning[slot]}]`).join(
    ", ",
  );
}

function drawMeaning(random: RandomStream): Meaning {
  const count = pickWeighted(COUNTS, random);
  const rest: Slot[] = SLOTS.filter((slot) => slot !== "name" && slot !== "eatType");
  const chosen = new Set<Slot>();
  if (count === SLOTS.length || random.float() < EAT_TYPE_SHARE) chosen.add("eatType");
  while (chosen.size < count - 1) chosen.add(pick(rest, random));
  const meaning: Record<string, string> = { name: pick(VALUES.name, random) };
  for (const slot of SLOTS) if (chosen.has(slot)) meaning[slot] = pick(VALUES[slot], random);
  return meaning as Meaning;
}

/** A phrase of an entry and how often it is chosen among the phrases for the same value. */
type Phrases = readonly (readonly [phrase: string, weight: number])[];

const PHRASES: Readonly<Record<Slot, (value: string) => Phrases>> = {
  "name": (value) => [[`${value}:`, 3], [`${value},`, 1]],
  "eatType": (value) => [[value, 1]],
  "food": (value) => [[`${value} kitchen`, 3], [`${value} cooking`, 1]],
  "priceRange": (value) =>
    value.includes("£")
      ? [[`bill ${value}`, 3], [`${value} a head`, 1]]
      : [[`prices ${value}`, 3], [`${value} prices`, 1]],
  "customer rating": (value) =>
    value.includes("out of")
      ? [[`rated ${value}`, 3], [`rating ${value}`, 1]]
      : [[`marks ${value}`, 3], [`${value} marks`, 1]],
  "area": (value) => [[value, 1]],
  "familyFriendly": (value) =>
    value === "yes"
      ? [["children welcome", 3], ["families welcome", 1]]
      : [["adults only", 3], ["no children", 1]],
  "near": (value) => [[`beside ${value}`, 3], [`near ${value}`, 1]],
};

/**
 * Says how an entry may put a slot.
 *
 * @param slot Which one.
 * @returns For each value that the slot can have, all its phrases.
 */
export function phrasesOf(slot: Slot): ReadonlyMap<string, readonly string[]> {
  return new Map(VALUES[slot].map((value) => [value, PHRASES[slot](value).map(([phrase]) => phrase)]));
}

function head({ name, eatType, food, area }: Meaning, random: RandomStream): string {
  const kind = `${area ?? ""} ${eatType ?? "place to eat"}`;
  const kitchens = food === undefined ? ["", ""] : PHRASES.food(food).map(([phrase]) => `, ${phrase}`);
  // A crisp start, and one in four with an article.
  return pickWeighted(
    PHRASES.name(name).map((
      [start, weight],
      i,
    ) => [`${start} ${["", "a "][i]}${kind}${kitchens[i]}`, weight]),
    random,
  );
}

function entry(meaning: Meaning, random: RandomStream): string {
  const say = (slot: Slot) => {
    const value = meaning[slot];
    return value === undefined ? [] : [pickWeighted(PHRASES[slot](value), random)];
  };
  const place = say("near");
  const facts = (["priceRange", "customer rating", "familyFriendly"] as const).flatMap(say);
  // The landmark follows the place itself, in one entry of four it closes the text.
  const order = random.below(4) > 0 ? [...place, ...facts] : [...facts, ...place];
  return fill(`${[head(meaning, random), ...order].join("; ")}.`, {}, random);
}

/** What the task is made with. */
export interface GuideOptions {
  /** An integer in [0, 2^32). @default {1} */
  readonly seed?: number;
  /** How many lines. Every one has another meaning. @default {2400} */
  readonly count?: number;
}

/**
 * Makes the lines of the task, each with another meaning, in random order: cut them anywhere and the
 * parts have no meaning in common.
 *
 * @param options Seed and size.
 * @returns The lines.
 */
export function guideEntries({ seed = 1, count = 2400 }: GuideOptions = {}): GuideEntry[] {
  const random = randomStream(seed, 2);
  const seen = new Set<string>();
  const entries: GuideEntry[] = [];
  while (entries.length < count) {
    const meaning = drawMeaning(random);
    const written = representation(meaning);
    if (seen.has(written)) continue;
    seen.add(written);
    entries.push({ meaning, representation: written, text: entry(meaning, random) });
  }
  return entries;
}
