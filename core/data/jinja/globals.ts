/**
 * What every template can use.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { bind } from "./signature.ts";
import {
  type Budget,
  Callable,
  Dict,
  fail,
  type Given,
  integerOf,
  Namespace,
  Range,
  requireItems,
  type Value,
} from "./values.ts";
import { textOf } from "./writing.ts";

/** Most numbers of a range, as jinja2 has it where templates are not trusted. */
const MAX_RANGE = 100_000;

function range({ positional, named }: Given): Value {
  if (named.size > 0) return fail("range() takes no keyword arguments");
  if (positional.length < 1 || positional.length > 3) return fail("range expected 1 to 3 arguments");
  const numbers = positional.map((value) => integerOf(value, "range() arguments"));
  const [start, stop] = numbers.length === 1 ? [0n, numbers[0]!] : [numbers[0]!, numbers[1]!];
  const step = numbers[2] ?? 1n;
  if (step === 0n) return fail("range() arg 3 must not be zero");
  const made = new Range(start, stop, step);
  if (made.length > MAX_RANGE) {
    throw new RangeError(`the template must ask for ranges of at most ${MAX_RANGE} numbers: it does not`);
  }
  return made;
}

/** Pairs for a mapping: those of another, those of a list, and named ones. */
function pairsOf({ positional, named }: Given, budget: Budget): [Value, Value][] {
  if (positional.length > 1) return fail(`dict expected at most 1 argument, got ${positional.length}`);
  const [first] = positional;
  const pairs: [Value, Value][] = [];
  if (first instanceof Dict) pairs.push(...first.entries.map(([key, value]): [Value, Value] => [key, value]));
  else if (first !== undefined) {
    for (const pair of requireItems(first, budget)) {
      const [key, value, more] = requireItems(pair, budget);
      if (key === undefined || value === undefined || more !== undefined) return fail("dict needs pairs");
      pairs.push([key, value]);
    }
  }
  pairs.push(...named);
  budget.spend(pairs.length);
  return pairs;
}

function namespace(given: Given, budget: Budget): Value {
  const made = new Namespace();
  for (const [key, value] of pairsOf(given, budget)) {
    if (typeof key !== "string") throw new UnsupportedError("fields of a namespace that are no texts");
    if (key.startsWith("_")) return fail("a namespace cannot have fields that begin with an underscore");
    made.fields.set(key, value);
  }
  return made;
}

/** Gives a separator each time but the first. */
function joiner(given: Given): Value {
  const { sep = ", " } = bind("joiner", ["sep?"], given);
  let isUsed = false;
  return new Callable("joiner", () => {
    if (isUsed) return sep;
    isUsed = true;
    return "";
  });
}

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  ...["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"],
  ...["November", "December"],
];

/** A date as `strftime` writes it, in the language of programs. */
export function strftime(format: string, date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const begin = new Date(date.getFullYear(), 0, 1);
  const midnight = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  const day = Math.round((midnight.getTime() - begin.getTime()) / 86_400_000) + 1;
  const hour12 = date.getHours() % 12 || 12;
  const year = String(date.getFullYear());
  const codes: Readonly<Record<string, string>> = {
    ...{ a: DAYS[date.getDay()]!.slice(0, 3), A: DAYS[date.getDay()]!, w: String(date.getDay()) },
    ...{
      b: MONTHS[date.getMonth()]!.slice(0, 3),
      B: MONTHS[date.getMonth()]!,
      h: MONTHS[date.getMonth()]!.slice(0, 3),
    },
    ...{ d: two(date.getDate()), m: two(date.getMonth() + 1), y: year.slice(-2), Y: year },
    ...{ e: String(date.getDate()).padStart(2, " "), j: String(day).padStart(3, "0") },
    ...{ H: two(date.getHours()), I: two(hour12), M: two(date.getMinutes()), S: two(date.getSeconds()) },
    ...{ p: date.getHours() < 12 ? "AM" : "PM", n: "\n", t: "\t", "%": "%" },
    ...{ f: String(date.getMilliseconds() * 1000).padStart(6, "0") },
    F: `${year}-${two(date.getMonth() + 1)}-${two(date.getDate())}`,
    T: `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`,
    R: `${two(date.getHours())}:${two(date.getMinutes())}`,
    D: `${two(date.getMonth() + 1)}/${two(date.getDate())}/${year.slice(-2)}`,
  };
  return format.replace(/%(-?)([^]?)/gu, (_, minus: string, code: string) => {
    const text = codes[code];
    if (text === undefined || minus !== "" && !/^\d+$/.test(text)) {
      throw new UnsupportedError(`"%${minus}${code}" in a date`);
    }
    return minus === "" ? text : String(Number(text));
  });
}

/**
 * The names that every template can read.
 *
 * @param now What counts as now.
 * @param budget What they may take.
 */
export function globals(now: Date, budget: Budget): Map<string, Value> {
  const functions: Readonly<Record<string, (given: Given) => Value>> = {
    range,
    dict: (given) => new Dict(pairsOf(given, budget)),
    // The library has a function of that name, which its values cannot be given.
    "#namespace": (given) => namespace(given, budget),
    joiner,
    raise_exception: (given) => {
      throw new TemplateError(textOf(bind("raise_exception", ["message"], given).message!, budget));
    },
    strftime_now: (given) => {
      const { format } = bind("strftime_now", ["format"], given);
      return typeof format === "string" ? strftime(format, now) : fail("strftime() argument 1 must be str");
    },
    cycler: () => {
      throw new UnsupportedError('"cycler"');
    },
  };
  return new Map(Object.entries(functions).map(([name, call]) => [name, new Callable(name, call)]));
}
