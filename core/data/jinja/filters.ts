/**
 * Filters of templates, as jinja2 has them.
 *
 * @module
 */

import { grow, spend } from "./budget.ts";
import { UnsupportedError } from "./errors.ts";
import { capitalize, lengthOf, replace, SPACE_CLASS, splitLines, strip } from "./methods.ts";
import { binary, isEqual, memberOf, order, runTest, signed } from "./operations.ts";
import {
  bind,
  type Bound,
  fail,
  type Given,
  integerOf,
  Items,
  itemsOf,
  joined,
  Markup,
  numberOf,
  sizeOf,
  stringOf,
  truthOf,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { escaped, fixed, formatPercent, textOf, writeJson } from "./writing.ts";

/** The longest indentation, and the longest piece of a list. */
const MOST_COLUMNS = 1000;

/** Reads an attribute of each item, by names and numbers between dots; the item itself without one. */
function getter(attribute: Value | undefined, other?: Value): (item: Value) => Value {
  if (attribute === undefined || attribute === null) return (item) => item;
  if (typeof attribute === "string" && attribute.includes(",")) {
    throw new UnsupportedError("several attributes");
  }
  const path = typeof attribute === "string"
    ? attribute.split(".").map((part) => /^\d+$/.test(part) ? BigInt(part) : part)
    : [attribute];
  return (item) =>
    path.reduce<Value>((value, part) => {
      const found = memberOf(value, part, "item");
      return other !== undefined && found instanceof Undefined ? other : found;
    }, item);
}

/** What items are ordered by: texts without regard to case, unless it matters. */
function keyed({ attribute, case_sensitive: cased = false }: Bound, other?: Value): (item: Value) => Value {
  const read = getter(attribute, other);
  return (item) => {
    const value = read(item);
    return typeof value === "string" && !truthOf(cased) ? value.toLowerCase() : value;
  };
}

function sorted(items: readonly Value[], key: (item: Value) => Value, reverse: Value = null): Value[] {
  spend(items.length * Math.ceil(Math.log2(items.length + 2)));
  // Equal ones keep their order, also from the largest on.
  const sign = truthOf(reverse) ? -1 : 1;
  return items.map((item) => [key(item), item] as const).toSorted(([a], [b]) => {
    const difference = order(a, b);
    if (Number.isNaN(difference)) throw new UnsupportedError("sorting numbers that are none");
    return sign * difference;
  }).map(([, item]) => item);
}

const generator = (items: readonly Value[]) => new Items(items, "generator");

function dictsort(value: Value, bound: Bound): Value {
  if (!(value instanceof Map)) return fail(`'${typeOf(value)}' object has no attribute 'items'`);
  const { by = "key" } = bound;
  const at = by === "key" ? 0n : by === "value" ? 1n : fail('You can only sort by either "key" or "value"');
  const pairs = [...value].map((pair: readonly Value[]) => new Items(pair, "tuple"));
  return new Items(sorted(pairs, keyed({ ...bound, attribute: at }), bound.reverse));
}

/** Items whose keys differ from those before. */
function unique(value: Value, bound: Bound): Value {
  const key = keyed(bound);
  const seen = new Set<string>();
  return generator(
    itemsOf(value).filter((item) => {
      const found = key(item);
      const number = numberOf(found);
      if (number === null && typeof found !== "string" && found !== null) {
        throw new UnsupportedError(`"unique" of ${typeOf(found)}`);
      }
      const name = number === null ? `${typeof found} ${found}` : String(Number(number));
      if (typeof number === "bigint" && !Number.isSafeInteger(Number(number))) {
        throw new UnsupportedError('"unique"');
      }
      const { size } = seen;
      return seen.add(name).size > size;
    }),
  );
}

function batch(value: Value, { linecount, fill_with: fill = null }: Bound): Value {
  const size = integerOf(linecount!, "linecount");
  if (size < 1 || size > MOST_COLUMNS) throw new UnsupportedError(`batch of ${size}`);
  const items = itemsOf(value);
  const count = Math.ceil(items.length / size);
  return generator(Array.from({ length: count }, (_, i) => {
    const piece = items.slice(i * size, (i + 1) * size);
    return new Items(fill === null ? piece : [...piece, ...Array<Value>(size - piece.length).fill(fill)]);
  }));
}

function groupby(value: Value, bound: Bound): Value {
  const read = getter(bound.attribute, bound.default);
  const key = keyed(bound, bound.default);
  const groups: { readonly key: Value; readonly first: Value; readonly items: Value[] }[] = [];
  for (const item of sorted(itemsOf(value), key)) {
    const last = groups.at(-1);
    if (last !== undefined && isEqual(last.key, key(item))) last.items.push(item);
    else groups.push({ key: key(item), first: read(item), items: [item] });
  }
  return new Items(groups.map(({ first, items }) => new Items([first, new Items(items)], "tuple")));
}

function sum(value: Value, { attribute, start = 0n }: Bound): Value {
  if (typeof start === "string") return fail("sum() can't sum strings");
  const items = itemsOf(value).map(getter(attribute));
  // Python adds up floats with less error than one by one.
  if (items.filter((item) => typeof item === "number").length > 1) {
    throw new UnsupportedError("sum of fractions");
  }
  return items.reduce((total, item) => binary("+", total, item), start);
}

function extreme(sign: 1 | -1) {
  return (value: Value, bound: Bound): Value => {
    const key = keyed(bound);
    const items = itemsOf(value);
    if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
    return items.reduce((best, item) => sign * order(key(item), key(best)) > 0 ? item : best);
  };
}

function map(value: Value, given: Given): Value {
  // What counts as false has no items, whatever it is.
  const items = truthOf(value) ? itemsOf(value) : [];
  if (given.positional.length === 0 && given.named.has("attribute")) {
    const { attribute, default: other } = bind("map", "attribute default?", given);
    return generator(items.map(getter(attribute, other)));
  }
  const [name = fail("map requires a filter argument"), ...positional] = given.positional;
  return generator(items.map((item) => runFilter(String(name), item, { positional, named: given.named })));
}

/** `select` and its like: by a test, of items or of an attribute of theirs. */
function selecting(kind: "keep" | "drop", by: "item" | "attribute") {
  return (value: Value, { positional, named }: Given): Value => {
    const rest = [...positional];
    const attribute = by === "attribute"
      ? rest.shift() ?? fail("Missing parameter for attribute name")
      : undefined;
    const read = getter(attribute);
    const name = rest.shift();
    return generator((truthOf(value) ? itemsOf(value) : []).filter((item) => {
      const found = read(item);
      const holds = name === undefined
        ? truthOf(found)
        : runTest(String(name), found, { positional: rest, named });
      return holds === (kind === "keep");
    }));
  };
}

/** An indentation that nobody writes is refused: a shorter one would give another text. */
function spaces(width: Value): string {
  if (typeof width === "string") return width;
  const columns = Math.max(0, integerOf(width, "indent"));
  if (columns > MOST_COLUMNS) {
    throw new UnsupportedError(`an indentation of more than ${MOST_COLUMNS} columns`);
  }
  return " ".repeat(columns);
}

function tojson(
  value: Value,
  { ensure_ascii: ascii = false, indent = null, separators = null, sort_keys }: Bound,
) {
  const moved = indent === null ? null : spaces(indent);
  const signs = separators instanceof Items ? separators.all : [moved === null ? ", " : ",", ": "];
  const layout = {
    isAscii: truthOf(ascii),
    indent: moved,
    comma: stringOf(signs[0], "a separator"),
    colon: stringOf(signs[1], "a separator"),
    isSorted: truthOf(sort_keys ?? false),
  };
  const result = writeJson(value, layout);
  grow(result.length);
  return result;
}

function indent(value: Value, { width = 4n, first = false, blank = false }: Bound): Value {
  const by = spaces(width);
  const lines = splitLines(`${stringOf(value, "what is indented")}\n`);
  grow((value as string).length + lines.length * (by.length + 1));
  const moved = lines.map((line, i) => i > 0 && (truthOf(blank) || line !== "") ? by + line : line).join(
    "\n",
  );
  return truthOf(first) ? by + moved : moved;
}

/** A number in a text, as Python's `float` reads it; `null` if there is none. */
function parseFloat(text: string): number | null {
  const digits = strip(text, "both").toLowerCase();
  if (/[^\0-\x7f]|_|^[-+]?(?:inf|nan)/.test(digits)) throw new UnsupportedError("a number of such digits");
  return /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/.test(digits) ? Number(digits) : null;
}

function toInteger(value: Value, { default: fallback = 0n, base = 10n }: Bound): Value {
  if (!isEqual(base, 10n)) throw new UnsupportedError("int with another base");
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const digits = typeof value === "string" ? strip(value, "both") : "";
  if (/^[-+]?\d{1,300}$/.test(digits)) return BigInt(digits.replace("+", ""));
  const number = typeof value === "string" ? parseFloat(value) : numberOf(value);
  if (typeof number !== "number") return number ?? fallback;
  if (!Number.isFinite(number)) throw new UnsupportedError("int of such numbers");
  return BigInt(Math.trunc(number));
}

function toFloat(value: Value, { default: fallback = 0 }: Bound): Value {
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const number = typeof value === "string" ? parseFloat(value) : numberOf(value);
  return number === null ? fallback : Number(number);
}

function round(value: Value, { precision = 0n, method = "common" }: Bound): Value {
  const number = numberOf(value) ?? fail(`type ${typeOf(value)} doesn't define __round__ method`);
  const digits = integerOf(precision, "precision");
  if (!["common", "ceil", "floor"].includes(String(method))) {
    return fail("method must be common, ceil or floor");
  }
  if (digits < 0 || digits > 15 || Math.abs(Number(number)) >= 2 ** 53) {
    throw new UnsupportedError(`rounding to ${digits} digits, or such numbers`);
  }
  if (method === "common") return typeof number === "bigint" ? number : Number(fixed(number, digits));
  const scaled = Number(number) * 10 ** digits;
  // Python has no negative zero among its whole numbers.
  return ((method === "ceil" ? Math.ceil(scaled) : Math.floor(scaled)) + 0) / 10 ** digits;
}

function truncate(
  value: Value,
  { length = 255n, killwords = false, end = "...", leeway = 5n }: Bound,
): Value {
  const [most, more] = [integerOf(length, "length"), integerOf(leeway ?? 5n, "leeway")];
  const tail = stringOf(end, "end");
  const self = textOf(value);
  if (most < lengthOf(tail) || more < 0) return fail(`expected length >= ${lengthOf(tail)}, leeway >= 0`);
  if (lengthOf(self) <= most + more) return self;
  const cut = [...self].slice(0, most - lengthOf(tail)).join("");
  return (truthOf(killwords) || !cut.includes(" ") ? cut : cut.slice(0, cut.lastIndexOf(" "))) + tail;
}

const escape = (value: Value): Value => value instanceof Markup ? value : escaped(textOf(value));

/** Words begin after dashes, brackets and white space. */
function title(text: string): string {
  return text.split(new RegExp(`([-${SPACE_CLASS}({[<]+)`, "u"))
    .map((word) => word === "" ? "" : [...word][0]!.toUpperCase() + [...word].slice(1).join("").toLowerCase())
    .join("");
}

const changed = (change: (text: string) => string) => (value: Value): Value => {
  const self = textOf(value);
  spend(self.length);
  return change(self);
};

function length(value: Value): Value {
  return BigInt(sizeOf(value) ?? fail(`object of type '${typeOf(value)}' has no len()`));
}

/** The first or the last item. */
function end(value: Value, at: 0 | -1): Value {
  const isGenerator = value instanceof Items && value.kind === "generator";
  if (isGenerator && at < 0) return fail("'generator' object is not reversible");
  const item = isGenerator ? value.next() : itemsOf(value).at(at);
  return item === undefined ? new Undefined("No such item, sequence was empty.") : item;
}

function reverse(value: Value): Value {
  const items = [...itemsOf(value)].reverse();
  if (typeof value === "string") return items.join("");
  // What cannot be gone through from its end becomes a list.
  return value instanceof Items && value.kind === "generator" ? new Items(items) : generator(items);
}

const orElse = (value: Value, { default_value: other = "", boolean = false }: Bound): Value =>
  value instanceof Undefined || (truthOf(boolean) && !truthOf(value)) ? other : value;

type Run = readonly [parameters: string, run: (value: Value, bound: Bound) => Value];

const FILTERS: Readonly<Record<string, Run>> = {
  abs: ["", (value) => {
    const number = numberOf(value) ?? fail(`bad operand type for abs(): '${typeOf(value)}'`);
    return number < 0 || Object.is(number, -0) ? signed("-", number) : number;
  }],
  batch: ["linecount fill_with?", batch],
  capitalize: ["", changed(capitalize)],
  count: ["", length],
  d: ["default_value? boolean?", orElse],
  default: ["default_value? boolean?", orElse],
  dictsort: ["case_sensitive? by? reverse?", dictsort],
  e: ["", escape],
  escape: ["", escape],
  first: ["", (value) => end(value, 0)],
  float: ["default?", toFloat],
  groupby: ["attribute default? case_sensitive?", groupby],
  indent: ["width? first? blank?", indent],
  int: ["default? base?", toInteger],
  items: ["", (value) => {
    if (value instanceof Undefined) return generator([]);
    if (!(value instanceof Map)) return fail("Can only get item pairs from a mapping.");
    return generator([...value].map((pair: readonly Value[]) => new Items(pair, "tuple")));
  }],
  join: ["d? attribute?", (value, { d = "", attribute }) => {
    const items = itemsOf(value).map(getter(attribute)).map(textOf);
    return joined(textOf(d), items);
  }],
  last: ["", (value) => end(value, -1)],
  length: ["", length],
  list: ["", (value) => new Items(itemsOf(value))],
  lower: ["", changed((text) => text.toLowerCase())],
  max: ["case_sensitive? attribute?", extreme(1)],
  min: ["case_sensitive? attribute?", extreme(-1)],
  replace: [
    "old new count?",
    (value, { old, new: after, count = null }) =>
      replace(textOf(value), textOf(old!), textOf(after!), count === null ? -1 : integerOf(count, "count")),
  ],
  reverse: ["", reverse],
  round: ["precision? method?", round],
  safe: ["", (value) => value instanceof Markup ? value : new Markup(textOf(value))],
  sort: [
    "reverse? case_sensitive? attribute?",
    (value, bound) => new Items(sorted(itemsOf(value), keyed(bound), bound.reverse)),
  ],
  string: ["", (value) => value instanceof Markup ? value : textOf(value)],
  sum: ["attribute? start?", sum],
  title: ["", changed(title)],
  tojson: ["ensure_ascii? indent? separators? sort_keys?", tojson],
  trim: ["chars?", (value, { chars }) => strip(textOf(value), "both", chars)],
  truncate: ["length? killwords? end? leeway?", truncate],
  unique: ["case_sensitive? attribute?", unique],
  upper: ["", changed((text) => text.toUpperCase())],
  wordcount: ["", (value) => BigInt(textOf(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)],
};

/** Filters that give their arguments on. */
const PASSING: Readonly<Record<string, (value: Value, given: Given) => Value>> = {
  format: (value, { positional, named }) => {
    if (named.size > 0 && positional.length > 0) return fail("can't handle positional and keyword arguments");
    return formatPercent(textOf(value), named.size > 0 ? named : new Items(positional, "tuple"));
  },
  map,
  reject: selecting("drop", "item"),
  rejectattr: selecting("drop", "attribute"),
  select: selecting("keep", "item"),
  selectattr: selecting("keep", "attribute"),
};

/** Filters that escaped text can be given. */
const OF_MARKUP = new Set("d default e escape safe length count tojson string".split(" "));

/**
 * Runs a filter.
 *
 * @throws {UnsupportedError} If it is one of jinja2's that is not done here.
 */
export function runFilter(name: string, value: Value, given: Given): Value {
  const isDone = Object.hasOwn(FILTERS, name);
  if (!isDone && !Object.hasOwn(PASSING, name)) throw new UnsupportedError(`the filter "${name}"`);
  if (value instanceof Markup && !OF_MARKUP.has(name)) {
    throw new UnsupportedError(`"${name}" of escaped text`);
  }
  if (!isDone) return PASSING[name]!(value, given);
  const [parameters, run] = FILTERS[name]!;
  return run(value, bind(name, parameters, given));
}
