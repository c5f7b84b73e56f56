/**
 * Filters of templates: of texts, numbers and single values. `sequence_filters.ts` has those of lists.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import { formatPercent, roundTo } from "./formatting.ts";
import type { Filter, FilterContext } from "./filter.ts";
import { capitalize, halfOf, replace } from "./methods.ts";
import { signed } from "./operations.ts";
import { SEQUENCE_FILTERS } from "./sequence_filters.ts";
import { bind } from "./signature.ts";
import { lengthOf, SPACE_CLASS, splitLines, strip } from "./text.ts";
import {
  Dict,
  fail,
  type Given,
  integerOf,
  Markup,
  numberOf,
  smallInteger,
  truthOf,
  Tuple,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { type JsonLayout, textOf, writeJson } from "./writing.ts";

/** The longest indentation. */
const MOST_COLUMNS = 1000;

const text = (change: (text: string) => string): Filter => (value, given, { budget }) => {
  bind("the filter", [], given);
  const self = textOf(value, budget);
  budget.spend(self.length);
  return change(self);
};

function jsonFilter(value: Value, given: Given, { budget }: FilterContext): Value {
  const parameters = ["ensure_ascii?", "indent?", "separators?", "sort_keys?"];
  const { ensure_ascii: ascii = false, indent = null, separators = null, sort_keys: sort = false } = bind(
    "tojson",
    parameters,
    given,
  );
  const moved = indent === null ? null : typeof indent === "string" ? indent : spaces(indent, "indent");
  const signs = separators === null ? [moved === null ? ", " : ",", ": "] : separatorsOf(separators);
  const layout: JsonLayout = {
    letters: truthOf(ascii) ? "ascii" : "any",
    indent: moved,
    comma: signs[0]!,
    colon: signs[1]!,
    sorted: truthOf(sort),
  };
  const result = writeJson(value, layout, budget);
  budget.checkSize(result.length);
  return result;
}

/** An indentation that nobody writes is refused: a shorter one would give another text. */
function spaces(count: Value, what: string): string {
  const columns = Math.max(0, smallInteger(count, what));
  if (columns > MOST_COLUMNS) {
    throw new UnsupportedError(`an indentation of more than ${MOST_COLUMNS} columns`);
  }
  return " ".repeat(columns);
}

function separatorsOf(value: Value): string[] {
  const items = value instanceof Tuple || (typeof value === "object" && value !== null && "items" in value)
    ? (value as Tuple).items
    : [];
  if (items.length === 2 && items.every((item) => typeof item === "string")) return items as string[];
  throw new UnsupportedError("such separators of tojson");
}

function indent(value: Value, given: Given, { budget }: FilterContext): Value {
  const { width = 4n, first = false, blank = false } = bind("indent", ["width?", "first?", "blank?"], given);
  const by = typeof width === "string" ? width : spaces(width, "width");
  if (typeof value !== "string") {
    return fail(`unsupported operand type(s) for +=: '${typeOf(value)}' and 'str'`);
  }
  const source = value;
  const lines = splitLines(`${source}\n`);
  const size = source.length + lines.length * (by.length + 1);
  budget.checkSize(size);
  budget.spend(size);
  const rest = lines.slice(1).map((line) => truthOf(blank) || line !== "" ? by + line : line);
  const moved = [lines[0] ?? "", ...rest].join("\n");
  return truthOf(first) ? by + moved : moved;
}

/** `int`: a text in digits, or a number without its fraction; something else where that fails. */
function toInteger(value: Value, given: Given, _context: FilterContext): Value {
  const { default: fallback = 0n, base = 10n } = bind("int", ["default?", "base?"], given);
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  if (typeof value === "string") {
    if (integerOf(base, "base") !== 10n) throw new UnsupportedError("int with another base");
    const digits = strip(value, "both");
    if (/^[-+]?\d+(?:_\d+)*$/.test(digits)) {
      const whole = BigInt(digits.replace(/[-+_]/g, ""));
      return digits.startsWith("-") ? -whole : whole;
    }
    if (/[^\0-\x7f]/.test(digits)) throw new UnsupportedError("int of such digits");
  }
  const number = typeof value === "string" ? floatOf(value) : numberOf(value);
  if (typeof number === "bigint") return number;
  if (number === Infinity || number === -Infinity) {
    return typeof value === "string" ? fallback : fail("cannot convert float infinity to integer");
  }
  return number === null || Number.isNaN(number) ? fallback : BigInt(Math.trunc(number));
}

/** A number in a text, as Python's `float` reads it. */
function floatOf(value: string): number | null {
  const digits = strip(value, "both").toLowerCase();
  const [, sign, word] = /^([-+]?)(inf|infinity|nan)$/.exec(digits) ?? [];
  if (word !== undefined) return word === "nan" ? NaN : sign === "-" ? -Infinity : Infinity;
  if (/[^\0-\x7f]/.test(digits)) throw new UnsupportedError("float of such digits");
  const part = "\\d+(?:_\\d+)*";
  const pattern = new RegExp(`^[-+]?(?:${part}\\.?(?:${part})?|\\.${part})(?:e[-+]?${part})?$`);
  return pattern.test(digits) ? Number(digits.replaceAll("_", "")) : null;
}

function toFloat(value: Value, given: Given, _context: FilterContext): Value {
  const { default: fallback = 0 } = bind("float", ["default?"], given);
  if (value instanceof Undefined) return fail(`${value.hint} is undefined`);
  const number = typeof value === "string" ? floatOf(value) : numberOf(value);
  if (number === null) return fallback;
  if (typeof number === "bigint" && !Number.isFinite(Number(number))) return fail("int too large");
  return Number(number);
}

function round(value: Value, given: Given, _context: FilterContext): Value {
  const { precision = 0n, method = "common" } = bind("round", ["precision?", "method?"], given);
  const number = numberOf(value) ?? fail(`type ${typeOf(value)} doesn't define __round__ method`);
  const digits = smallInteger(precision, "precision");
  if (method === "common") return roundTo(number, digits);
  if (method !== "ceil" && method !== "floor") return fail("method must be common, ceil or floor");
  if (Math.abs(digits) > 15) throw new UnsupportedError(`rounding to ${digits} digits`);
  // 10 ** digits is exact there, or a float as in Python.
  const unit = digits >= 0 ? 10 ** digits : 1 / 10 ** -digits;
  const scaled = Number(number) * unit;
  if (!Number.isFinite(scaled)) throw new UnsupportedError("rounding numbers that are not finite");
  // Python has no negative zero among its whole numbers.
  return ((method === "ceil" ? Math.ceil(scaled) : Math.floor(scaled)) + 0) / unit;
}

function truncate(value: Value, given: Given, { budget }: FilterContext): Value {
  const parameters = ["length?", "killwords?", "end?", "leeway?"];
  const { length = 255n, killwords = false, end = "...", leeway = 5n } = bind("truncate", parameters, given);
  const [most, more] = [smallInteger(length, "length"), smallInteger(leeway ?? 5n, "leeway")];
  const tail = typeof end === "string" ? end : fail("end must be str");
  const self = textOf(value, budget);
  if (most < lengthOf(tail)) return fail(`expected length >= ${lengthOf(tail)}, got ${most}`);
  if (more < 0) return fail(`expected leeway >= 0, got ${more}`);
  if (lengthOf(self) <= most + more) return self;
  const cut = [...self].slice(0, most - lengthOf(tail)).join("");
  if (truthOf(killwords)) return cut + tail;
  const at = cut.lastIndexOf(" ");
  return (at < 0 ? cut : cut.slice(0, at)) + tail;
}

const ESCAPED: Readonly<Record<string, string>> = {
  ...{ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;" },
};

function escape(value: Value, given: Given, { budget }: FilterContext): Value {
  bind("escape", [], given);
  if (value instanceof Markup) return value;
  const escaped = textOf(value, budget).replace(/[&<>"']/g, (sign) => ESCAPED[sign]!);
  budget.spend(escaped.length);
  budget.checkSize(escaped.length);
  return new Markup(escaped);
}

function titleOf(self: string): string {
  // Words begin after dashes, brackets and white space.
  return self.split(new RegExp(`([-${SPACE_CLASS}({[<]+)`, "u"))
    .map((word) => {
      if (word === "") return "";
      const [first = ""] = word;
      return first.toUpperCase() + word.slice(first.length).toLowerCase();
    }).join("");
}

const centered: Filter = (value, given, { budget }) => {
  const size = smallInteger(bind("center", ["width?"], given).width ?? 80n, "width");
  const self = textOf(value, budget);
  const missing = Math.max(0, size - lengthOf(self));
  budget.checkSize(self.length + missing);
  budget.spend(self.length + missing);
  const before = halfOf(missing, size);
  return " ".repeat(before) + self + " ".repeat(missing - before);
};

const fallback: Filter = (value, given) => {
  const { default_value: other = "", boolean = false } = bind(
    "default",
    ["default_value?", "boolean?"],
    given,
  );
  return value instanceof Undefined || (truthOf(boolean) && !truthOf(value)) ? other : value;
};

const VALUE_FILTERS: Readonly<Record<string, Filter>> = {
  abs: (value, given) => {
    bind("abs", [], given);
    const number = numberOf(value) ?? fail(`bad operand type for abs(): '${typeOf(value)}'`);
    return number < 0 || Object.is(number, -0) ? signed("-", number) : number;
  },
  capitalize: text(capitalize),
  center: centered,
  d: fallback,
  default: fallback,
  e: escape,
  escape,
  float: toFloat,
  format: (value, given, { budget }) => {
    if (given.named.size > 0 && given.positional.length > 0) {
      return fail("can't handle positional and keyword arguments");
    }
    const named = given.named.size > 0 ? new Dict(given.named) : new Tuple(given.positional);
    return formatPercent(textOf(value, budget), named, budget);
  },
  indent,
  int: toInteger,
  lower: text((self) => self.toLowerCase()),
  replace: (value, given, { budget }) => {
    const { old, new: after, count = null } = bind("replace", ["old", "new", "count?"], given);
    const most = count === null ? -1 : smallInteger(count, "count");
    return replace(textOf(value, budget), [textOf(old!, budget), textOf(after!, budget)], most, budget);
  },
  round,
  safe: (value, given, { budget }) => {
    bind("safe", [], given);
    return value instanceof Markup ? value : new Markup(textOf(value, budget));
  },
  string: (value, given, { budget }) => {
    bind("string", [], given);
    return value instanceof Markup ? value : textOf(value, budget);
  },
  title: text(titleOf),
  tojson: jsonFilter,
  trim: (value, given, { budget }) => {
    const { chars = null } = bind("trim", ["chars?"], given);
    if (chars !== null && typeof chars !== "string") return fail("strip arg must be None or str");
    return strip(textOf(value, budget), "both", chars);
  },
  truncate,
  upper: text((self) => self.toUpperCase()),
  wordcount: (value, given, { budget }) => {
    bind("wordcount", [], given);
    return BigInt(textOf(value, budget).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0);
  },
};

/**
 * Runs a filter.
 *
 * @throws {UnsupportedError} If it is one of jinja2's that is not done here.
 * @throws {TemplateError} If there is none of that name.
 */
export function runFilter(name: string, value: Value, given: Given, context: FilterContext): Value {
  for (const filters of [VALUE_FILTERS, SEQUENCE_FILTERS]) {
    if (!Object.hasOwn(filters, name)) continue;
    if (value instanceof Markup && !MARKUP_FILTERS.has(name)) {
      throw new UnsupportedError(`"${name}" of escaped text`);
    }
    return filters[name]!(value, given, context);
  }
  throw new UnsupportedError(`the filter "${name}"`);
}

/** Filters that escaped text can be given. */
const MARKUP_FILTERS: ReadonlySet<string> = new Set(
  "d default e escape safe length count tojson string".split(" "),
);
