/**
 * Talk in which people say again exactly what was said before: telephone bookings, orders read back, lists
 * of places with questions about them, slips of paper read out. Much of it is about names that occur once,
 * so that the only way to know the next word is to look it up further left.
 *
 * @module
 */

import { permutation, type RandomStream } from "@edgetuner/core";
import { fill, pick, pickWeighted } from "../../cli/shared/restaurant/random_text.ts";
import { AREAS, KINDS, KITCHENS, PEOPLE, PRICES, RATINGS } from "../../cli/shared/restaurant/lexicon.ts";
import { landmarkName, madeUp, placeName } from "./made_up.ts";

const DRINKS = ["tea", "coffee", "red wine", "white wine", "cold beer", "lemonade", "apple juice", "water"];
const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const TIMES = ["noon", "one", "two", "half past six", "seven", "half past seven", "eight", "nine"];
const NUMBERS = ["two", "three", "four", "five", "six", "eight"];

const FACTS = ["kind1", "food1", "area1", "near1", "price1", "stars1", "kids1"];

interface Scene {
  readonly weight: number;
  readonly open: readonly string[];
  readonly more: readonly string[];
}

const SCENES: readonly Scene[] = [
  { // A booking, said and said again.
    weight: 3,
    open: [
      "(hello|good evening|good morning), (I want|I would like|we want) a table at {name1} for {guest1}, {day1} at {time1}, {number1} people.",
      "(is this|have I got) {name1}, the {kind1} near {near1}? (my name is|I am|this is) {guest1}, {number1} people, {day1} at {time1}.",
      "{guest1} (calls|rings) {name1} (for|about) {day1}, {time1}, a table for {number1}, near {near1}.",
    ],
    more: [
      "{name1}, {guest1}, {day1} at {time1}, {number1} people, (yes|right|of course).",
      "(so|again|once more): {guest1}, {number1} people, {day1}, {time1}, at {name1}.",
      "(the name is|it is for|the table is for) {guest1}, {lq}{guest1}{rq}, {day1}, {time1}.",
      "{number1} people, {guest1}, {name1}, (not {name2}|near {near1}, not near {near2}).",
      "(was it|is it) {guest1} or {guest2}? {guest1}, (please|of course), at {name1}, near {near1}.",
      "(where|which place)? {name1}, near {near1}. (when|what time)? {day1}, {time1}. (who|what name)? {guest1}.",
    ],
  },
  { // Places in a list, then questions.
    weight: 5,
    open: [
      "I know three places: {name1} {lb}{food1}, near {near1}{rb}, {name2} {lb}{food2}, near {near2}{rb} and {name3} {lb}{food3}, near {near3}{rb}.",
      "{name1} is a {food1} {kind1} at {price1}, {name2} is a {food2} {kind2} at {price2}, {name3} is near {near3}.",
      "{name1}: {food1}, {stars1}, {price1}; {name2}: {food2}, {stars2}, {price2}; near {near3}: {name3}, {food3}.",
      "{lq}{name1}{rq}, {lq}{food1}{rq}, near {lq}{near1}{rq}; {lq}{name2}{rq}, {lq}{food2}{rq}, near {lq}{near2}{rq}; {lq}{name3}{rq}, {lq}{food3}{rq}, near {lq}{near3}{rq}.",
    ],
    more: [
      "(who cooks|where is) {food1}? At {name1}. And {food2}? At {name2}.",
      "(what|which food) has {name2}? {food2}. And {name1}? {food1}.",
      "I (choose|like|take) {name1}, {guest1} (chooses|likes|takes) {name2}, so {name1} (and|or) {name2}?",
      "{name3} is near {near3}, (yes, |)near {near3}, (says|said) {guest1}, and {name1} is {food1}.",
      "(we|they) (met|waited) at {name2}, {guest1} (came|left) (from|for) {name3} near {near3}, and {guest2} from {name1}.",
      "(not|no,) {name1}, (not|no,) {name2}, {name3}: {name3} near {near3}.",
    ],
  },
  { // A slip of paper about one place, read out.
    weight: 12,
    open: ["{slip}"],
    more: [
      "{name1}, (says the slip|it says|yes|I read): {kind1}, {food1}.",
      "the (place|name) is {name1}, the food is {food1}, and it is near {near1}.",
      "{name1} is the {area1} {kind1}, {food1} (food|dishes), near {near1}.",
      "{guest1} (asks|wants to know): what is it? A {kind1}. What food? {food1}. Where? {area1}. What is near? {near1}.",
      "so at {name1} (I|we) (pay|paid) {price1}, and guests (gave|give) {stars1}.",
      "{price1}, (the slip says|it says|yes), and {stars1} (from|by) the guests, for {name1}.",
      "near {near1}, {area1}, {kind1}, {food1}: (that is|it must be|this is) {name1}.",
      "(how dear is it|the price)? {price1}. (the marks|how good is it)? {stars1}. (the name|who)? {name1}.",
      "(and with children|my children too)? {saykids1}, (it says|sorry|I read), at {name1} {saykids1}.",
      "{area1}, (you said|did you say)? Yes, {area1}, the {kind1} near {near1}.",
    ],
  },
  { // An order, read back.
    weight: 2,
    open: [
      "{guest1} orders {dish1} and {drink1}, {guest2} orders {dish2} and {drink2}, {guest3} only {drink3}.",
      "table {number1}: {dish1}, {drink1}; table {number2}: {dish2}, {drink2}; {guest1} pays for {guest2}.",
      "{lq}{dish1}{rq}, {lq}{drink1}{rq} for {guest1}, {lq}{dish2}{rq}, {lq}{drink2}{rq} for {guest2}.",
    ],
    more: [
      "the (waiter|waitress) reads: {dish1}, {drink1}, {dish2}, {drink2}.",
      "{dish1} for {guest1}, {dish2} for {guest2}, (right|yes|is that all)?",
      "{drink1} with the {dish1}, {drink2} with the {dish2}, (thank you|good|yes).",
      "(no|sorry), {guest1} (has|gets) the {dish1}, not {guest2}, {guest2} (has|gets) the {dish2}.",
      "(what|which drink) with the {dish2}? {drink2}. And with the {dish1}? {drink1}.",
    ],
  },
  { // Names on a list, called out.
    weight: 3,
    open: [
      "(on the list|guests tonight|the names): {guest1}, {guest2}, {guest3}, {name1}, {name2}, {near1}.",
      "{lq}{guest1}{rq}, {lq}{name1}{rq}, {lq}{near1}{rq}, {lq}{guest2}{rq}, {lq}{name2}{rq}.",
      "{guest1} sits at {name1}, {guest2} sits at {name2}, {guest3} waits near {near1}.",
    ],
    more: [
      "(again|once more|I read), {guest1}, {guest2}, {name1}, {name2}, {near1}.",
      "{guest2}? At {name2}. {guest1}? At {name1}.",
      "{name1}, {name2}, and (no other|only these|near {near1}).",
      "{guest1} (knows|calls|meets) {guest2}, {guest2} (knows|calls|meets) {guest1}, near {near1}.",
      "after {guest1} (comes|came) {guest2}, and (they|all) went from {name1} to {name2}.",
    ],
  },
  { // A sign, quoted.
    weight: 3,
    open: [
      "the sign (says|said) {lq}{name1}{rq} (in red|in big letters|above the door), and below it {lq}{food1}, {price1}{rq}.",
      "{guest1} wrote {lq}{stars1}, {price1}{rq} about {lq}{name1}{rq} {lb}{area1}, near {near1}{rb}.",
      "we (found|saw) {lq}{name1}{rq} {lb}{food1} {kind1}{rb} near {lq}{near1}{rq} {lb}{area1}{rb}.",
    ],
    more: [
      "{name1}? Yes, {lq}{name1}{rq}, I (read|saw|remember) it, {name1}.",
      "{lq}{name1}{rq} means (nothing|something old), (says|said) {guest1}, but {name1} (it is|stays).",
      "(we|they) (went|go) (into|back to) {name1}, and {guest1} (liked|likes) {name1} (a lot|too).",
      "(then|so) {name1} again, (not {name2}, |){name1}, where {guest1} (works|eats).",
    ],
  },
];

function slots(random: RandomStream): Record<string, string> {
  const values: Record<string, string> = { lq: '"', rq: '"', lb: "(", rb: ")" };
  if (random.below(3) === 0) Object.assign(values, { lq: "(", rq: ")" });
  const seen = new Set<string>();
  // No value twice in a document.
  const draw = (make: () => string) => {
    for (;;) {
      const value = make();
      if (seen.has(value)) continue;
      seen.add(value);
      return value;
    }
  };
  const kids = random.below(2) === 0 ? "yes" : "no";
  values["kids1"] = `children ${kids}`;
  values["saykids1"] = kids === "yes" ? "families come too" : "only adults";
  for (const i of [1, 2, 3]) {
    const of = (items: readonly string[]) => draw(() => pick(items, random));
    const [food, dishes] = pick(KITCHENS.filter(([food]) => !seen.has(food)), random);
    seen.add(food);
    values[`name${i}`] = draw(() => placeName(random));
    values[`guest${i}`] = draw(() => random.below(3) === 0 ? pick(PEOPLE, random)[0] : madeUp(random));
    values[`near${i}`] = draw(() => landmarkName(random));
    values[`food${i}`] = food;
    values[`dish${i}`] = pick(dishes, random);
    values[`drink${i}`] = of(DRINKS);
    values[`kind${i}`] = pick(KINDS, random);
    values[`area${i}`] = of(AREAS.map(([area]) => area));
    values[`price${i}`] = pick(PRICES, random);
    values[`stars${i}`] = of(RATINGS.filter((rating) => rating !== values[`price${i}`]));
    values[`day${i}`] = of(DAYS);
    values[`time${i}`] = of(TIMES);
    values[`number${i}`] = of(NUMBERS);
  }
  return values;
}

/** What a slip says about the first place: its name, then facts, each in quotes, after a comma or a bar. */
function slip(values: Record<string, string>, needed: ReadonlySet<string>, random: RandomStream): string {
  const facts = FACTS.filter((fact) => needed.has(fact) || random.below(4) === 0);
  const order = permutation(facts.length, random);
  const written = [values["name1"]!, ...Array.from(order, (i) => values[facts[i]!]!)];
  const { lq, rq } = values;
  const quoted = written.map((value) => `${lq}${value}${rq}`);
  const text = pick([
    quoted.join(", "),
    quoted.join(", "),
    quoted.join(" "),
    written.join(", "),
    written.join("/"),
    `${lq}${written.join("; ")}${rq}`,
  ], random);
  return `${pick(["a slip on the door", "the slip", "a note", "the card", "it says"], random)}: ${text}.`;
}

function slotsOf(template: string): string[] {
  return Array.from(template.matchAll(/\{(\w+\d)\}/g), (match) => match[1]!.replace("say", ""));
}

/**
 * Makes one document.
 *
 * @param random Where the choices come from.
 * @returns Three to six sentences or lines of talk.
 */
export function exactDocument(random: RandomStream): string[] {
  const scene = pickWeighted(SCENES.map((scene) => [scene, scene.weight]), random);
  const values = slots(random);
  const open = pick(scene.open, random);
  // What is said again has been said before.
  const said = new Set(open === "{slip}" ? ["name1", "guest1", ...FACTS] : slotsOf(open));
  const lines = scene.more.filter((line) => slotsOf(line).every((slot) => said.has(slot)));
  const order = permutation(lines.length, random).subarray(0, 2 + random.below(4));
  const chosen = Array.from(order, (i) => lines[i]!);
  values["slip"] = slip(values, new Set(chosen.flatMap(slotsOf)), random);
  return [open, ...chosen].map((template) => fill(template, values, random));
}
