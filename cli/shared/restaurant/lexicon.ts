/**
 * The words of the restaurant grammar. All names are invented.
 *
 * @module
 */

const ADJECTIVES = [
  "Copper",
  "Silver",
  "Golden",
  "Crooked",
  "Quiet",
  "Blue",
  "Red",
  "Old",
  "Little",
  "Merry",
  "Hidden",
  "Salty",
  "Lazy",
  "Bright",
];

const NOUNS = [
  "Wren",
  "Kettle",
  "Anchor",
  "Fox",
  "Lantern",
  "Spoon",
  "Orchard",
  "Barrel",
  "Heron",
  "Table",
  "Pepper",
  "Bridge",
  "Oven",
  "Plum",
];

const SINGLE_NAMES = [
  "Marlow's",
  "Tindra",
  "Casa Ombra",
  "Petra's",
  "Kivo",
  "Bellamar",
  "Rosa's",
  "Sorrel",
  "Nonna Rilla",
  "Hakuri",
  "Zafrano",
  "Duskwater",
];

/** Every name of a place to eat that the general talk uses. */
export const PLACES: readonly string[] = [
  ...ADJECTIVES.flatMap((adjective) => NOUNS.map((noun) => `The ${adjective} ${noun}`)),
  ...SINGLE_NAMES,
];

/** The names of the fine-tuning task: the single ones and two for each adjective, chosen by a fixed rule. */
export const TASK_PLACES: readonly string[] = [
  ...ADJECTIVES.flatMap((adjective, i) =>
    [i, i + 5].map((j) => `The ${adjective} ${NOUNS[j % NOUNS.length]!}`)
  ),
  ...SINGLE_NAMES,
];

/** Other places of the town, for directions and for the `near` slot. */
export const LANDMARKS: readonly string[] = [
  "Rosegate Station",
  "Lantern Hotel",
  "Weaver Market",
  "Harbour Museum",
  "Crown Theatre",
  "Mill Park",
  "Fern Church",
  "Crown Library",
  "Grand Pier",
  "Weaver Square",
  "Mill Hall",
  "Kings Arcade",
];

/** Parts of the town: the value of the `area` slot, and the phrase that says where something is. */
export const AREAS: readonly (readonly [value: string, where: string])[] = [
  ["riverside", "by the river"],
  ["city centre", "in the city centre"],
  ["old town", "in the old town"],
  ["harbour", "at the harbour"],
  ["north gate", "at the north gate"],
];

/** Kinds of place: the value of the `eatType` slot. */
export const KINDS: readonly string[] = ["restaurant", "pub", "coffee shop"];

/** Kitchens: the value of the `food` slot, with dishes for the general talk. */
export const KITCHENS: readonly (readonly [food: string, dishes: readonly string[]])[] = [
  ["Italian", ["mushroom pasta", "tomato soup", "pizza", "lemon risotto"]],
  ["French", ["onion soup", "duck", "apple tart", "fish stew"]],
  ["Indian", ["chicken curry", "lentil soup", "lamb rice", "spinach curry"]],
  ["Chinese", ["noodle bowl", "dumpling plate", "fried rice", "ginger duck"]],
  ["Japanese", ["noodle soup", "grilled fish", "grilled chicken", "sushi"]],
  ["English", ["fish pie", "roast beef", "sausage plate", "apple pie"]],
  ["Spanish", ["seafood rice", "potato omelette", "garlic prawn salad", "bean stew"]],
  ["Greek", ["lamb stew", "bean salad", "stuffed pepper", "cheese pie"]],
];

/** The values of the `priceRange` slot. */
export const PRICES: readonly string[] = [
  "cheap",
  "moderate",
  "high",
  "less than £15",
  "£15-25",
  "more than £25",
];

/** The values of the `customer rating` slot. */
export const RATINGS: readonly string[] = [
  "low",
  "average",
  "high",
  "1 out of 5",
  "3 out of 5",
  "5 out of 5",
];

/** People of the general talk: first name and the two pronouns. */
export const PEOPLE: readonly (readonly [name: string, subject: string, object: string])[] = [
  ["Anna", "she", "her"],
  ["Ben", "he", "him"],
  ["Clara", "she", "her"],
  ["David", "he", "him"],
  ["Ella", "she", "her"],
  ["Frank", "he", "him"],
  ["Grace", "she", "her"],
  ["Henry", "he", "him"],
  ["Iris", "she", "her"],
  ["Jonas", "he", "him"],
  ["Lena", "she", "her"],
  ["Max", "he", "him"],
];
