/**
 * General restaurant talk: the text the tiny base model is trained on. Small documents
 * that stay with one place, one person, one kitchen, so that the model learns to carry a name on. The
 * task's notation (`slot[value]`) and its register do not occur; the same properties of places do, in words.
 *
 * @module
 */

import { permutation, type RandomStream, randomStream } from "@edgetuner/core";
import { exactDocument } from "./exact_talk.ts";
import { formDocument } from "./forms.ts";
import { fill, pick } from "../../cli/shared/restaurant/random_text.ts";
import { AREAS, KINDS, KITCHENS, LANDMARKS, PEOPLE, PLACES } from "../../cli/shared/restaurant/lexicon.ts";

const DRINKS = ["tea", "coffee", "red wine", "white wine", "cold beer", "lemonade", "apple juice", "water"];
const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const TIMES = ["noon", "one", "two", "half past six", "seven", "half past seven", "eight", "nine"];
const LATER = ["a quarter past nine", "half past nine", "ten"];
const STAFF = ["waiter", "waitress", "chef", "owner", "barman", "cook", "manager"];
const GOOD = ["lovely", "great", "excellent", "warm", "fresh", "very good", "wonderful", "tasty"];
const BAD = ["cold", "bland", "too salty", "poor", "dry", "burnt", "slow", "greasy"];
const NUMBERS = ["two", "three", "four", "five", "six", "eight"];
const STREETS = ["Mill Lane", "Bridge Street", "Market Street", "Garden Road", "Church Lane", "Station Road"];
const SHOPS = ["bakery", "bank", "flower shop", "book shop", "cinema", "school", "post office", "chemist"];
const WEATHERS = ["rain", "sun", "snow", "wind", "fog", "heat"];
const STARS = ["1", "2", "3", "4", "5"];

/** Share of documents in which people say exactly again what was said. */
const EXACT_SHARE = 0.25;
/** Share of documents about a form. */
const FORM_SHARE = 0.55;

interface Topic {
  readonly open: readonly string[];
  readonly more: readonly string[];
}

const TOPICS: readonly Topic[] = [
  { // A visit that went well.
    open: [
      "(last|this) {day} (we|{person} and I) (went|walked) to {place} (for dinner|for lunch|to eat|).",
      "{person} (took|invited) me to {place} on {day} (evening|night|), and (I|we) (really|) (loved|enjoyed) it.",
      "(have you been|did you ever go) to {place}, the {kind} {where}?",
      "I (finally|) tried {place} {where} (last night|this week|on {day}), and it was {good}.",
      "(we|they) had a {good} (meal|dinner|lunch) at {place} (on {day}|last week|) with {person}.",
    ],
    more: [
      "the {dish} (at {place}|) was {good} and the {drink} was (cheap|good|fine) too.",
      "(I|we) ordered the {dish} and (a glass of|some) {drink}, and (everything|all of it) was {good}.",
      "{person} said that {place} (makes|cooks|serves) the best {dish} in (town|the city).",
      "the {staff} was (friendly|kind|polite) and (remembered|knew) what (we|{person}) (liked|wanted).",
      "(I|we) (would|will) (happily|gladly|surely|) go back to {place} (next {day}|for the {dish}|any day).",
      "{person} (gave|would give) {place} {stars} out of 5, and (so would I|I gave it a little less).",
      "we (paid|spent) about £{money} (each|a person|in all), which (is|seems) (fair|cheap|not much) for {food} food.",
      "(the room|{place}) was (full|busy|quiet) but we (found|got) a (small|nice|) table (near|beside) the (window|door|fire).",
    ],
  },
  { // A visit that went wrong.
    open: [
      "(I am sorry to say|I must say|it is true) that {place} (was|is) not (good|what it was) (any more|).",
      "{person} (was|is) (angry|sad|unhappy) about {place} (because|since) the {dish} was {bad}.",
      "(never|do not) go to {place} on a {day}, (it is|because it is) (too full|too loud|far too busy).",
      "our (dinner|lunch|meal) at {place} was a (bad|sad|long) story (from start to end|).",
      "we (waited|sat) (an hour|half an hour|a long time) for the {dish} at {place} (on {day}|).",
    ],
    more: [
      "the {dish} was {bad} and the {drink} (came|arrived) (late|warm|after the meal).",
      "{person} asked for {drink} (two times|twice|again), but the {staff} (forgot|did not listen|walked away).",
      "(I|we) complained to the {staff} of {place}, (but|and) {they} only (laughed|smiled|said sorry).",
      "the bill was £{money}, (far|much|a bit) too (much|high) for (food|a meal) like that.",
      "(I|we) would give {place} {stars} out of 5 (at most|and no more|if I am kind).",
      "the (customers|guests|people) at the next table (left|went home) (before|without) their {dish}.",
      "(maybe|perhaps) the {staff} had a bad day, but (I|we) (will not|do not want to) (try|see) {place} again.",
      "{person} told {them} that the {dish} was {bad}, and (nobody|no one) (cared|answered).",
    ],
  },
  { // Directions.
    open: [
      "(excuse me,|sorry,|hello,) (how do I get|which way is it|where do I go) to {place}?",
      "(can|could) you tell me where {place} is, (please|the {kind} near {landmark})?",
      "{place} is (not far from|near|close to|just behind) {landmark}, {where}.",
      "(to find|to get to) {place}, (go|walk|turn) (left|right) at {landmark}.",
    ],
    more: [
      "(go|walk) (down|along|up) {street} until you see {landmark}, then (turn|go) (left|right).",
      "(it is|{place} is) {number} minutes (on foot|by bus|by bike) from {landmark}.",
      "you (will|can) see {place} (next to|behind|opposite) the {shop} on {street}.",
      "(take|you can take) the bus to {landmark} and (get off|ask) at the {shop}.",
      "if you (come to|reach|pass) the {shop}, you have gone too far, so turn (back|round).",
      "{person} (always|often) gets lost between {landmark} and the {shop} (in the dark|).",
      "(the entrance|the door) of {place} is (small|hard to see|blue|red), so look for the (sign|lamp).",
      "(parking|to park) near {landmark} is (easy|hard|never easy), (but|and) the car park {where} is (cheap|free).",
    ],
  },
  { // Making a plan.
    open: [
      "(shall|should) we (meet|eat) at {place} on {day} at {time}?",
      "{person} wants to book a table for {number} at {place} (on {day}|for {day} at {time}).",
      "(I would like|we want) to (try|go to) {place} with {person} (this {day}|on {day}|next week).",
      "what are you doing on {day}, (maybe|perhaps) we could go to {place}?",
    ],
    more: [
      "(let us|we could|we can) (meet|wait) (in front of|at|near) {landmark} at {time}, and then walk (there|to {place}).",
      "(I|{person}) will (call|ring|ask) {place} and (book|order) a table for {number}.",
      "{person} (cannot|can not) come before {time}, (because|as) {subject} works (late|until then) on {day}.",
      "(do they|does {place}) have {food} food, or (only|just) {drink} and cake?",
      "(is|was) {place} (open|closed) on {day}, (or do we need another plan|do you know)?",
      "(I|we) (heard|read) that the {dish} (there|at {place}) is {good}, so I (will|want to) (try|order) it.",
      "(bring|we should bring) {person} too, {subject} loves {food} (food|cooking) and {drink}.",
      "(tell|please tell) {person} that (we|they) (moved|changed) the (dinner|lunch) from {time} to {later}.",
    ],
  },
  { // Families and children.
    open: [
      "(can|could) I (take|bring) (the|my|two) children to {place} (on {day}|)?",
      "{place} is a (good|bad|fine) {kind} for families, (or so {person} says|I think|says {person}).",
      "(our|my) (children|little ones|girls|boys) (love|like|hate) the {dish} at {place}.",
      "{person} (brought|took) {number} children to {place} for (lunch|a birthday|a treat).",
    ],
    more: [
      "the {staff} (gave|brought) the children (paper|pens|a small cake|some {drink}) and a (big|kind) smile.",
      "there is (a garden|a small park|a play corner) (behind|beside) {place} where the children can (play|run).",
      "(they do not|{place} does not) (welcome|want|take) children after {time}, it is (only|just) for adults (then|).",
      "(the chairs are|the room is) too (small|high|dark) for a family with (a baby|{number} children).",
      "(children|the little ones) eat for half the price (on {day}|before {time}|) at {place}.",
      "{person} is a friendly {staff}, and {subject} is (very|always) (kind|good) with children.",
      "if you want a (quiet|slow) dinner without children, (go|come) (to {place}|) after {time}.",
      "(my|our) (son|daughter) (ate|finished) the {dish} and (asked for|wanted) (more|{drink}).",
    ],
  },
  { // Staff and kitchen.
    open: [
      "{person} (has worked at {place} (since {day}|for {number} years)|(works|cooks) at {place} as a {staff}).",
      "the (new|old|young) {staff} of {place} (comes|came) from a {food} family.",
      "(who|do you know who) (cooks|works) at {place} (now|these days|), is it {person}?",
      "(the kitchen|a day in the kitchen) of {place} (starts|begins) at {time} (in the morning|every {day}).",
    ],
    more: [
      "{person} (makes|cuts|cooks) the {dish} (by hand|every {day}|with great care) and (sings|talks) all the time.",
      "{subject} (learned|studied) {food} cooking (from|with) (a friend|an old chef|the owner) {where}.",
      "(every|each) {day} the {staff} (buys|gets) fish and (bread|fruit|herbs) at the market near {landmark}.",
      "the {staff} (says|said|thinks) that good {dish} (needs|takes) time, (salt|butter|fresh herbs) and (love|luck).",
      "(after|before) {time} the kitchen (closes|is closed), and (they|the cooks) drink {drink} together.",
      "(I|we) asked {person} (about|how to make) the {dish}, but {subject} (kept it secret|only smiled|said no).",
      "(last|this) year {place} (won|got|lost) a prize for its {dish}, and the {staff} was (proud|sad|happy).",
      "{place} (needs|looks for|wants) a new {staff}, so (ask|write to) {person} if you (want|like) the job.",
    ],
  },
  { // Money.
    open: [
      "(how much|what) does the {dish} cost at {place}?",
      "{place} is (cheap|not cheap|rather dear) (for|if you think of) a {kind} {where}.",
      "the prices at {place} are (low|high|moderate|average|fair), (says|I heard from) {person}.",
      "{person} (spent|paid) £{money} at {place} (on {day}|for the {dish}|last night).",
    ],
    more: [
      "(a|one) plate of {dish} (costs|is) £{money}, and {drink} is (less than|more than|about) £{small}.",
      "(you can|one can|we) (eat|have dinner) (there|at {place}) for (less than|under|about) £{money} (a person|each).",
      "(I|we) (paid|left) £{money} for {number} people, (with|without) {drink}.",
      "for (less than|more than) £{money} (I|you) (expect|want) {good} (food|service), (do you not|and a smile).",
      "(they|{place}) (raised the price of the {dish} from £{small} to £{money}|lowered the price of the {dish} from £{money} to £{small}).",
      "the {staff} takes (cards|only cash|cash and cards), so (bring|take) (some|enough) money.",
      "{person} (thinks|says) that the {dish} is (worth|not worth) £{money}.",
      "on {day} (everything|all the {food} food) at {place} is half price (until|before) {time}.",
    ],
  },
  { // Kitchens compared.
    open: [
      "(do you|does {person}) like {food} food (more|better|less) than {otherfood} food?",
      "(I|we) (want|would love) {food} food (tonight|on {day}), (what about|how about) {place}?",
      "{place} (serves|cooks|has) {food} food, and {otherplace} is (a|an old|a new) {kind} (opposite|near it|nearby).",
      "{person} prefers {otherplace}, but I (like|love) {place} (more|better).",
    ],
    more: [
      "the {dish} at {place} is (better|worse|bigger|smaller) than (the one|what they serve) at {otherplace}.",
      "{food} cooking is (simple|hard|an art), (but|and) the {dish} at {place} is {good}.",
      "(at {otherplace}|there) the (food|service) is {bad}, (but|though) the (view|music|garden) is (nice|fine).",
      "{person} (says|thinks|told me) that {place} is not (really|truly) {food}, it is (more|rather) {otherfood}.",
      "(I|we) (ate|had) {dish} at {place} and {drink} at {otherplace}, (both|and both) were (good|fine).",
      "both (places|kitchens) are {where}, (only|just) {number} minutes from {landmark}.",
      "if you (like|love) {dish}, (choose|pick|take) {place}, (otherwise|if not,) (go to|try) {otherplace}.",
      "(I think|my friends think) {otherplace} has (low|average|high) (marks|ratings), and {place} has (better|worse) ones.",
    ],
  },
  { // The room, the weather, the mood.
    open: [
      "because of the {weather} we sat (inside|outside|in the garden|near the fire) at {place}.",
      "(it was|what) a day of {weather}, and {place} (was|looked) (warm|bright|empty|full).",
      "the (view|garden|terrace|old room) of {place} (looks|is) {good} in the {weather}.",
      "{place} is a (quiet|loud|small|large|cosy) {kind} {where}, (near|opposite|behind) {landmark}.",
    ],
    more: [
      "(we|{person} and I) (watched|saw) the {weather} (through|from) the window and drank {drink}.",
      "there was music (from the {staff}|by a friend of {person}|in the corner), and (everyone|people) (sang|danced|listened).",
      "the {staff} (lit|put out) the candles at {time}, and (the room|{place}) (went|became) (quiet|dark|warm).",
      "I (felt|was) (happy|tired|calm|hungry|at home) at {place}, (maybe|perhaps) because of the {dish}.",
      "(the chairs|the tables|the walls) are (old|new|blue|red|made of wood), and {person} (likes|hates) them.",
      "(guests|customers) (sit|stay) until (late|{time}|the last bus), with {drink} and (cards|stories|bread).",
      "in the {weather} a {dish} (is|tastes) (best|better|just right), (says|said) {person}.",
      "(a cat|a dog|an old man) (sleeps|sits) (in front of|behind|beside) {place} (every {day}|all day).",
    ],
  },
  { // On the telephone.
    open: [
      "(hello|good evening|good morning), is (this|that) {place}, the {kind} (near|beside) {landmark}?",
      "{person} (called|rang) {place} to ask (about|for) the {dish}.",
      "(thank you|thanks) for calling {place}, (my name is {person}|this is {person}), how can I help you?",
      "(I|we) (booked|ordered) a table for {number} at {place} (under the name of|for) {person}.",
    ],
    more: [
      "(yes|of course|sure), we (are open|have a table) (until|at|from) {time} on {day}.",
      "(no|sorry|I am sorry), the {dish} is (finished|sold out|only for {day}), but we have (soup|{otherdish}).",
      "(do you|does {place}) (serve|have) (anything|something) without (meat|milk|nuts) for {person}?",
      "(could|can) you (repeat|say) your name (again|), (please|I did not hear you)?",
      "we (will|can) keep the table (for {person}|) until {time}, (not longer|then we give it away).",
      "(we|people) (speak|talk) {food} (here|at {place}), (so|and) please (speak|talk) slowly.",
      "{place} is (closed|full) on {day}, (try|please try) {otherplace} {where}.",
      "(see you|we will see you) on {day} at {time}, (and please|and do) bring (the children|a coat|{person}).",
    ],
  },
];

/** What the general talk is made with. */
export interface TalkOptions {
  /** An integer in [0, 2^32). @default {1} */
  readonly seed?: number;
  /** How many sentences at least. @default {60_000} */
  readonly sentences?: number;
}

/**
 * Makes the general talk.
 *
 * @param options Seed and size.
 * @returns Documents of one to six sentences each, one string per document; some go on in the next one.
 */
export function generalTalk({ seed = 1, sentences = 60_000 }: TalkOptions = {}): string[] {
  const random = randomStream(seed, 1);
  const documents = new Set<string>();
  let count = 0;
  while (count < sentences) {
    const which = random.float();
    const exact = which < EXACT_SHARE + FORM_SHARE;
    const talk = which < FORM_SHARE
      ? formDocument(random)
      : exact
      ? exactDocument(random)
      : oneDocument(random);
    // Half of the exact talks go on in a document of their own.
    const cut = exact && random.below(2) === 0 ? 1 : talk.length;
    const parts = [talk.slice(0, cut), talk.slice(cut)].filter((part) => part.length > 0)
      .map((part) => part.join(" "));
    if (parts.some((part) => documents.has(part))) continue;
    for (const part of parts) documents.add(part);
    count += talk.length;
  }
  return [...documents];
}

function oneDocument(random: RandomStream): string[] {
  const topic = pick(TOPICS, random);
  const [food, dishes] = pick(KITCHENS, random);
  const [person, subject] = pick(PEOPLE, random);
  const place = pick(PLACES, random);
  const fixed = {
    place,
    otherplace: pick(PLACES.filter((other) => other !== place), random),
    person,
    subject,
    they: pick(["she", "he"], random),
    them: pick(["her", "him", "them"], random),
    food,
    otherfood: pick(KITCHENS.filter(([other]) => other !== food), random)[0],
    kind: pick(KINDS, random),
    where: pick(AREAS, random)[1],
    landmark: pick(LANDMARKS, random),
    staff: pick(STAFF, random),
    street: pick(STREETS, random),
    shop: pick(SHOPS, random),
    weather: pick(WEATHERS, random),
    dish: pick(dishes, random),
  };
  const count = 2 + random.below(3);
  const order = permutation(topic.more.length, random);
  const templates = [
    pick(topic.open, random),
    ...Array.from(order.subarray(0, count - 1), (i) => topic.more[i]!),
  ];
  return templates.map((template) =>
    fill(template, {
      ...fixed,
      otherdish: pick(dishes, random),
      drink: pick(DRINKS, random),
      day: pick(DAYS, random),
      time: pick(TIMES, random),
      later: pick(LATER, random),
      good: pick(GOOD, random),
      bad: pick(BAD, random),
      number: pick(NUMBERS, random),
      stars: pick(STARS, random),
      money: String(12 + random.below(25)),
      small: String(2 + random.below(10)),
    }, random)
  );
}
