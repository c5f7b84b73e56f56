/**
 * What every template can use.
 *
 * @module
 */

import { spend, tooMuch } from "./budget.ts";
import { TemplateError, UnsupportedError } from "./errors.ts";
import {
  bind,
  type Call,
  type Dict,
  fail,
  type Given,
  integerOf,
  Items,
  itemsOf,
  type Key,
  keyOf,
  Namespace,
  stringOf,
  type Value,
} from "./values.ts";
import { textOf } from "./writing.ts";

/** Most numbers of a range, as jinja2 has it where templates are not trusted. */
const MAX_RANGE = 100_000;

function range({ positional, named }: Given): Value {
  if (named.size > 0 || positional.length < 1 || positional.length > 3) {
    return fail("range expected 1 to 3 arguments");
  }
  const numbers = positional.map((value) => integerOf(value, "range() arguments"));
  const [start = 0, stop = 0, step = 1] = numbers.length === 1 ? [0, ...numbers] : numbers;
  if (step === 0) return fail("range() arg 3 must not be zero");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MAX_RANGE || numbers.some((number) => Math.abs(number) === 2 ** 31)) {
    throw tooMuch(`ask for ranges of at most ${MAX_RANGE} numbers`);
  }
  spend(length);
  const written = `range(${start}, ${stop}${step === 1 ? "" : `, ${step}`})`;
  return new Items(Array.from({ length }, (_, i) => BigInt(start + i * step)), "range", written);
}

/** A mapping of another, or of pairs, and of named fields. */
function dict({ positional, named }: Given): Dict {
  if (positional.length > 1) return fail(`dict expected at most 1 argument, got ${positional.length}`);
  const [first = new Map()] = positional;
  const pairs = first instanceof Map ? [...first as Dict] : itemsOf(first).map((pair): [Key, Value] => {
    const [key, value, more] = itemsOf(pair);
    if (key === undefined || value === undefined || more !== undefined) return fail("dict needs pairs");
    return [keyOf(key), value];
  });
  spend(pairs.length);
  return new Map([...pairs, ...named]);
}

function namespace(given: Given): Value {
  const made = new Namespace();
  for (const [key, value] of dict(given)) {
    if (typeof key !== "string") throw new UnsupportedError("fields that are no texts");
    if (key.startsWith("_")) return fail("a namespace cannot have fields that begin with an underscore");
    made.fields.set(key, value);
  }
  return made;
}

/** Gives a separator each time but the first. */
function joiner(given: Given): Value {
  const { sep = ", " } = bind("joiner", "sep?", given);
  let isUsed = false;
  return () => {
    if (isUsed) return sep;
    isUsed = true;
    return "";
  };
}

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  ...["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"],
  ...["November", "December"],
];

/** A date as `strftime` writes it, in the language of programs. */
export function strftime(format: string, date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const [day, month] = [DAYS[date.getDay()]!, MONTHS[date.getMonth()]!];
  const midnight = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  const dayOfYear = Math.round((midnight - Date.UTC(date.getFullYear(), 0, 1)) / 86_400_000) + 1;
  const year = String(date.getFullYear());
  const codes: Readonly<Record<string, string>> = {
    ...{ a: day.slice(0, 3), A: day, w: String(date.getDay()), b: month.slice(0, 3), B: month },
    ...{ d: two(date.getDate()), m: two(date.getMonth() + 1), y: year.slice(-2), Y: year },
    ...{ e: String(date.getDate()).padStart(2, " "), j: String(dayOfYear).padStart(3, "0") },
    ...{ H: two(date.getHours()), I: two(date.getHours() % 12 || 12), M: two(date.getMinutes()) },
    ...{ S: two(date.getSeconds()), p: date.getHours() < 12 ? "AM" : "PM", "%": "%" },
    F: `${year}-${two(date.getMonth() + 1)}-${two(date.getDate())}`,
    T: `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`,
    R: `${two(date.getHours())}:${two(date.getMinutes())}`,
    D: `${two(date.getMonth() + 1)}/${two(date.getDate())}/${year.slice(-2)}`,
  };
  return format.replace(/%(-?)([^]?)/gu, (_, minus: string, code: string) => {
    const text = Object.hasOwn(codes, code) ? codes[code]! : undefined;
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
 */
export function globals(now: Date): Map<string, Call> {
  return new Map(Object.entries<Call>({
    range,
    dict,
    namespace,
    joiner,
    raise_exception: (given) => {
      throw new TemplateError(textOf(bind("raise_exception", "message", given).message!));
    },
    strftime_now: (given) =>
      strftime(stringOf(bind("strftime_now", "format", given).format, "the format"), now),
    cycler: () => {
      throw new UnsupportedError('"cycler"');
    },
  }));
}
