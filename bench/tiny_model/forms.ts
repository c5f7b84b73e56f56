/**
 * Talk about forms: a place is written down field by field, then people ask for single fields, say the
 * same in sentences, or read the form out once more in another order. Most values are made up or drawn
 * from long lists, so that what a field holds can only be known by looking it up.
 *
 * @module
 */

import { permutation, type RandomStream } from "@edgetuner/core";
import { fill, pick, pickWeighted } from "../../cli/shared/restaurant/random_text.ts";
import { AREAS, KINDS, KITCHENS, PRICES, RATINGS } from "../../cli/shared/restaurant/lexicon.ts";
import { landmarkName, madeUp, placeName } from "./made_up.ts";

/** A field of a form. */
interface Field {
  /** What the field may be called. */
  readonly keys: readonly string[];
  /** Draws what it holds. */
  readonly value: (random: RandomStream) => string;
  /** Questions after it. */
  readonly ask: string;
  /** Sentences that say it; they can be joined with commas. */
  readonly say: string;
}

const MORE_KINDS = [
  "tavern",
  "tea room",
  "wine bar",
  "bakery",
  "canteen",
  "bistro",
  "snack bar",
  "guest house",
];
const MORE_FOODS = ["Turkish", "Thai", "Irish", "Danish", "Polish", "Korean", "Russian", "Swiss", "Dutch"];
const MORE_AREAS = ["new town", "west side", "south gate", "hill", "market quarter", "lake side", "east end"];
const MORE_PRICES = ["fair", "steep", "tiny", "normal", "modest", "very high", "very low"];
const MORE_MARKS = ["good", "poor", "mixed", "excellent", "medium", "top", "weak"];

const FIELDS: readonly Field[] = [
  {
    keys: ["name", "place", "house"],
    value: placeName,
    ask: "(what|which) name|the (name|place|house)|what is it called",
    say: "the name is {v}|it is called {v}|they call it {v}",
  },
  {
    keys: ["kind", "sort", "type"],
    value: (random) => pick(random.below(3) > 0 ? KINDS : MORE_KINDS, random),
    ask: "(what|which) (kind|sort|type)|what is it",
    say: "it is a {v}|they run a {v}|we found a {v}",
  },
  {
    keys: ["food", "kitchen", "cooking"],
    value: (random) =>
      pickWeighted([
        [pick(KITCHENS, random)[0], 4],
        [pick(MORE_FOODS, random), 2],
        [`${madeUp(random)}${pick(["an", "ish", "ese"], random)}`, 2],
      ], random),
    ask: "(what|which) (food|kitchen|cooking)|and the (food|kitchen)|what do they cook",
    say: "the food is {v}|they cook {v} dishes|people come for {v} food",
  },
  {
    keys: ["price", "cost", "prices"],
    value: (random) =>
      pickWeighted([
        [pick(PRICES, random), 4],
        [pick(MORE_PRICES, random), 2],
        [`£${10 + random.below(40)}`, 1],
      ], random),
    ask: "what price|and the (price|cost)|how dear is it",
    say: "the price is {v}|what you pay is {v}|the price there is {v}",
  },
  {
    keys: ["rating", "stars", "points"],
    value: (random) =>
      pickWeighted([
        [pick(RATINGS, random), 4],
        [pick(MORE_MARKS, random), 2],
        [`${1 + random.below(5)} out of ${5 + 5 * random.below(2)}`, 1],
      ], random),
    ask: "what (rating|stars|points)|and the (rating|points)|how good is it",
    say: "the rating is {v}|guests gave {v}|its rating was {v}",
  },
  {
    keys: ["area", "part of town", "quarter"],
    value: (random) => random.below(3) > 0 ? pick(AREAS, random)[0] : pick(MORE_AREAS, random),
    ask: "(what|which) (area|quarter)|which part of town|in which area",
    say: "the area is {v}|it is in the {v} area|look in the {v} part of town",
  },
  {
    keys: ["near", "next to", "close to"],
    value: landmarkName,
    ask: "what is it near|near what|next to what|what is close to it",
    say: "it is near {v}|you find it near {v}|it stands next to {v}",
  },
  {
    keys: ["children", "families", "kids"],
    value: (random) => pick(["yes", "no"], random),
    ask: "(and|what about) (children|families|kids)|can children come",
    say: "children {v}|as for children, {v}|with kids, {v}",
  },
];

const NAME = 0, KIND = 1, FOOD = 2, AREA = 5, NEAR = 6, CHILDREN = 7;

/** How a form may be written: one field, and what stands between two. `{k}` is the key, `{v}` the value. */
const STYLES: readonly (readonly [field: string, between: string])[] = [
  ["{k}: {v}", ", "],
  ["{k}: {v}", "; "],
  ['{k} "{v}"', ", "],
  ["{k} {lb}{v}{rb}", ", "],
  ["{k}={v}", " "],
  ["{k}/{v}", "; "],
  ["{k} - {v}", ", "],
  ['"{v}"', ", "],
  ["{lb}{v}{rb}", " "],
];

const OPENINGS = ["", "", "the form: ", "a card: ", "it says: ", "the slip: ", "a note: "];
const AGAIN = ["again: ", "once more: ", "I read: ", "so: ", "so we have: ", ""];

/** Fills key and value in; without its key, what a form says about children could mean anything. */
function say(template: string, field: number, value: string, random: RandomStream): string {
  const bare = field === CHILDREN && /^(\{lb\}|"){v}/.test(template);
  return template.replace("{k}", pick(FIELDS[field]!.keys, random)).replaceAll(
    "{v}",
    bare ? `children ${value}` : value,
  );
}

function write(fields: readonly number[], values: readonly string[], random: RandomStream): string {
  const [template, between] = pick(STYLES, random);
  return fields.map((f) => say(template, f, values[f]!, random)).join(between);
}

function shuffled(fields: readonly number[], random: RandomStream): number[] {
  return Array.from(permutation(fields.length, random), (i) => fields[i]!);
}

/** A sentence that puts some of the fields together. */
function describe(fields: readonly number[], values: readonly string[], random: RandomStream): string {
  const value = (f: number) => fields.includes(f) && random.below(4) > 0 ? values[f]! : "";
  const kind = value(KIND) || "place";
  const near = value(NEAR) && ` near ${values[NEAR]}`;
  const [food, area, name] = [value(FOOD), value(AREA), values[NAME]];
  return pick([
    `${name} is a ${area} ${food} ${kind}${near}.`,
    `${name} is a ${area} ${kind}${food && ` with ${food} food`}${near}.`,
    `we know ${name}, the ${area} ${kind}${near}${food && `, for ${food} food`}.`,
    `at ${name}${near} (they have|there is) a ${area} ${kind}${food && ` that cooks ${food} food`}.`,
  ], random);
}

/**
 * Makes one document about a form.
 *
 * @param random Where the choices come from.
 * @returns The form, and then what is said about it, one string each.
 */
export function formDocument(random: RandomStream): string[] {
  const values = FIELDS.map(({ value }) => value(random));
  const others = shuffled(FIELDS.map((_, f) => f).slice(1), random).slice(0, 2 + random.below(6));
  const fields = [NAME, ...others];
  // Most forms begin with the name, as people do; the other fields come in any order.
  const order = random.below(4) > 0 ? fields : shuffled(fields, random);
  const lines = [`${pick(OPENINGS, random)}${write(order, values, random)}.`];
  const count = 2 + random.below(3);
  for (let i = 0; i < count; i++) {
    const some = shuffled(fields, random).slice(0, 2 + random.below(4));
    switch (random.below(5)) {
      case 0:
      case 1:
        lines.push(...some.map((f) => say(`(${FIELDS[f]!.ask})? {v}.`, f, values[f]!, random)));
        break;
      case 2:
        lines.push(describe(fields, values, random));
        break;
      case 3:
        lines.push(`${some.map((f) => say(`(${FIELDS[f]!.say})`, f, values[f]!, random)).join(", ")}.`);
        break;
      default:
        lines.push(`${pick(AGAIN, random)}${write(some, values, random)}.`);
    }
  }
  return lines.map((line) => fill(line, { lb: "(", rb: ")" }, random));
}
