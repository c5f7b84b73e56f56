/**
 * Filters of lists, mappings and whatever else has items.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import type { Filter, FilterContext } from "./filter.ts";
import { joined } from "./methods.ts";
import { binary, isEqual, order } from "./operations.ts";
import { bind } from "./signature.ts";
import {
  Dict,
  fail,
  type Given,
  List,
  Once,
  requireItems,
  sizeOf,
  smallInteger,
  truthOf,
  Tuple,
  typeOf,
  Undefined,
  type Value,
  View,
} from "./values.ts";
import { textOf } from "./writing.ts";

/** What an attribute's path leads to: names and numbers between dots. */
function pathOf(attribute: Value): Value[] {
  if (typeof attribute === "string") {
    return attribute.split(".").map((part) => /^\d+$/.test(part) ? BigInt(part) : part);
  }
  return [attribute];
}

/** Reads an attribute of each item; the item itself without one. */
function getter(attribute: Value | undefined, context: FilterContext, other?: Value): (item: Value) => Value {
  if (attribute === undefined || attribute === null) return (item) => item;
  const path = pathOf(attribute);
  return (item) => {
    let value = item;
    for (const part of path) {
      value = context.item(value, part);
      if (other !== undefined && value instanceof Undefined) value = other;
    }
    return value;
  };
}

/** What items are ordered by: texts without regard to case, unless it matters. */
function keyed(
  attribute: Value | undefined,
  cased: Value,
  context: FilterContext,
): (item: Value) => Value {
  const read = getter(attribute, context);
  return (item) => {
    const value = read(item);
    return typeof value === "string" && !truthOf(cased) ? value.toLowerCase() : value;
  };
}

function sorted(
  items: readonly Value[],
  key: (item: Value) => Value,
  reverse: Value,
  { budget }: FilterContext,
): Value[] {
  const pairs = items.map((item) => [key(item), item] as const);
  budget.spend(pairs.length * Math.ceil(Math.log2(pairs.length + 2)));
  // Equal ones keep their order, also from the largest on.
  const sign = truthOf(reverse) ? -1 : 1;
  return pairs.toSorted(([a], [b]) => {
    const difference = order(a, b, budget);
    if (Number.isNaN(difference)) throw new UnsupportedError("sorting numbers that are none");
    return sign * difference;
  }).map(([, item]) => item);
}

function sort(value: Value, given: Given, context: FilterContext): Value {
  const parameters = ["reverse?", "case_sensitive?", "attribute?"];
  const { reverse = false, case_sensitive: cased = false, attribute } = bind("sort", parameters, given);
  const items = requireItems(value, context.budget);
  const several = typeof attribute === "string" && attribute.includes(",");
  const parts = several ? attribute.split(",") : [attribute];
  const keys = parts.map((part) => keyed(part, cased, context));
  const key = several ? (item: Value) => new Tuple(keys.map((one) => one(item))) : keys[0]!;
  // One item is compared with nothing.
  return new List(sorted(items, key, reverse, context));
}

function dictsort(value: Value, given: Given, context: FilterContext): Value {
  const { case_sensitive: cased = false, by = "key", reverse = false } = bind(
    "dictsort",
    ["case_sensitive?", "by?", "reverse?"],
    given,
  );
  if (!(value instanceof Dict)) return fail(`'${typeOf(value)}' object has no attribute 'items'`);
  const at = by === "key" ? 0 : by === "value" ? 1 : fail('You can only sort by either "key" or "value"');
  const pairs = value.entries.map((entry) => new Tuple(entry));
  const key = keyed(undefined, cased, context);
  return new List(sorted(pairs, (pair) => key((pair as Tuple).items[at]!), reverse, context));
}

/** Items whose keys differ from those before. */
function unique(value: Value, given: Given, context: FilterContext): Value {
  const { case_sensitive: cased = false, attribute } = bind(
    "unique",
    ["case_sensitive?", "attribute?"],
    given,
  );
  const key = keyed(attribute, cased, context);
  const seen = new Dict();
  return new Once(
    requireItems(value, context.budget).filter((item) => {
      const name = key(item);
      if (seen.get(name) !== undefined) return false;
      seen.put(name, true);
      return true;
    }),
  );
}

/** Cuts a list into pieces of so many. */
function batch(value: Value, given: Given, { budget }: FilterContext): Value {
  const { linecount, fill_with: fill = null } = bind("batch", ["linecount", "fill_with?"], given);
  const size = smallInteger(linecount!, "linecount");
  if (size < 1) throw new UnsupportedError("batch of less than one");
  const items = requireItems(value, budget);
  const pieces: List[] = [];
  for (let at = 0; at < items.length; at += size) {
    const piece = items.slice(at, at + size);
    budget.checkSize(size);
    if (fill !== null) budget.spend(size);
    pieces.push(
      new List(fill === null ? piece : [...piece, ...Array<Value>(size - piece.length).fill(fill)]),
    );
  }
  return new Once(pieces);
}

/** Cuts a list into so many pieces. */
function slice(value: Value, given: Given, { budget }: FilterContext): Value {
  const { slices, fill_with: fill = null } = bind("slice", ["slices", "fill_with?"], given);
  const count = smallInteger(slices!, "slices");
  if (count < 1) throw new UnsupportedError("slice into less than one");
  budget.checkSize(count);
  budget.spend(count);
  const items = requireItems(value, budget);
  const size = Math.floor(items.length / count);
  const longer = items.length % count;
  return new Once(Array.from({ length: count }, (_, i) => {
    const begin = i * size + Math.min(i, longer);
    const piece = items.slice(begin, begin + size + (i < longer ? 1 : 0));
    return new List(fill !== null && i >= longer ? [...piece, fill] : piece);
  }));
}

function groupby(value: Value, given: Given, context: FilterContext): Value {
  const { attribute, default: other, case_sensitive: cased = false } = bind(
    "groupby",
    ["attribute", "default?", "case_sensitive?"],
    given,
  );
  const read = getter(attribute, context, other);
  const key = (item: Value) => {
    const found = read(item);
    return typeof found === "string" && !truthOf(cased) ? found.toLowerCase() : found;
  };
  const groups: { readonly key: Value; readonly first: Value; readonly items: Value[] }[] = [];
  for (const item of sorted(requireItems(value, context.budget), key, false, context)) {
    const name = key(item);
    const last = groups.at(-1);
    if (last !== undefined && isEqual(last.key, name, context.budget)) last.items.push(item);
    else groups.push({ key: name, first: read(item), items: [item] });
  }
  const names = ["grouper", "list"];
  return new List(groups.map(({ first, items }) => new Tuple([first, new List(items)], names)));
}

function sum(value: Value, given: Given, context: FilterContext): Value {
  const { attribute, start = 0n } = bind("sum", ["attribute?", "start?"], given);
  const read = getter(attribute, context);
  if (typeof start === "string") return fail("sum() can't sum strings");
  const items = requireItems(value, context.budget).map(read);
  // Python adds up floats with less error than one by one.
  if (items.filter((item) => typeof item === "number").length > 1) {
    throw new UnsupportedError("sum of fractions");
  }
  return items.reduce((total, item) => binary("+", total, item, context.budget), start);
}

function extreme(isLargest: boolean): Filter {
  return (value, given, context) => {
    const { case_sensitive: cased = false, attribute } = bind(
      "min",
      ["case_sensitive?", "attribute?"],
      given,
    );
    const key = keyed(attribute, cased, context);
    const items = requireItems(value, context.budget);
    if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
    return items.reduce((best, item) => {
      const difference = order(key(item), key(best), context.budget);
      return (isLargest ? difference > 0 : difference < 0) ? item : best;
    });
  };
}

function map(value: Value, given: Given, context: FilterContext): Value {
  // What counts as false has no items, whatever it is.
  const items = truthOf(value) ? requireItems(value, context.budget) : [];
  if (given.positional.length === 0 && given.named.has("attribute")) {
    const { attribute, default: other } = bind("map", ["*attribute", "*default?"], given);
    return new Once(items.map(getter(attribute, context, other)));
  }
  const [name, ...positional] = given.positional;
  if (name === undefined) return fail("map requires a filter argument");
  return new Once(
    items.map((item) => context.filter(String(name), item, { positional, named: given.named })),
  );
}

/** `select` and its like: by a test, of items or of an attribute of theirs. */
function selecting(kind: "keep" | "drop", by: "item" | "attribute"): Filter {
  const byAttribute = by === "attribute";
  return (value, given, context) => {
    const attribute = byAttribute ? given.positional[0] : undefined;
    if (byAttribute && attribute === undefined) return fail("Missing parameter for attribute name");
    const read = getter(attribute, context);
    const [name, ...positional] = given.positional.slice(byAttribute ? 1 : 0);
    return new Once(
      (truthOf(value) ? requireItems(value, context.budget) : []).filter((item) => {
        const found = read(item);
        const holds = name === undefined
          ? truthOf(found)
          : context.test(String(name), found, { positional, named: given.named });
        return holds === (kind === "keep");
      }),
    );
  };
}

const length: Filter = (value, given) => {
  bind("length", [], given);
  const size = sizeOf(value);
  return size === null ? fail(`object of type '${typeOf(value)}' has no len()`) : BigInt(size);
};

/** Filters of what has items. */
export const SEQUENCE_FILTERS: Readonly<Record<string, Filter>> = {
  batch,
  count: length,
  dictsort,
  first: (value, given, { budget }) => {
    bind("first", [], given);
    const first = value instanceof Once ? value.next() : requireItems(value, budget)[0];
    return first ?? (first === null ? null : new Undefined("No first item, sequence was empty."));
  },
  groupby,
  items: (value, given) => {
    bind("items", [], given);
    if (value instanceof Undefined) return new Once([]);
    if (!(value instanceof Dict)) return fail("Can only get item pairs from a mapping.");
    return new Once(new View("items", value).items);
  },
  join: (value, given, context) => {
    const { d = "", attribute } = bind("join", ["d?", "attribute?"], given);
    const items = requireItems(value, context.budget).map(getter(attribute, context));
    return joined(
      textOf(d, context.budget),
      items.map((item) => textOf(item, context.budget)),
      context.budget,
    );
  },
  last: (value, given, { budget }) => {
    bind("last", [], given);
    if (value instanceof Once) return fail("'generator' object is not reversible");
    const last = requireItems(value, budget).at(-1);
    return last ?? (last === null ? null : new Undefined("No last item, sequence was empty."));
  },
  length,
  list: (value, given, { budget }) => {
    bind("list", [], given);
    return new List(requireItems(value, budget));
  },
  map,
  max: extreme(true),
  min: extreme(false),
  reject: selecting("drop", "item"),
  rejectattr: selecting("drop", "attribute"),
  reverse: (value, given, { budget }) => {
    bind("reverse", [], given);
    const items = [...requireItems(value, budget)].reverse();
    if (typeof value === "string") return items.join("");
    // What cannot be gone through from its end becomes a list.
    if (value instanceof Once) return new List(items);
    return new Once(items);
  },
  select: selecting("keep", "item"),
  selectattr: selecting("keep", "attribute"),
  slice,
  sort,
  sum,
  unique,
};
