/**
 * Texts with places for values: `%` and `str.format`; and rounding as Python does it.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import {
  type Budget,
  Dict,
  fail,
  type Given,
  List,
  Markup,
  numberOf,
  Range,
  smallInteger,
  Tuple,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { reprOf, textOf, writeInteger } from "./writing.ts";

/** A float as its fraction: value = mantissa * 2 ** exponent. */
function fractionOf(value: number): { readonly mantissa: bigint; readonly exponent: number } {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, Math.abs(value));
  const bits = view.getBigUint64(0);
  const power = Number(bits >> 52n);
  const low = bits & ((1n << 52n) - 1n);
  return power === 0
    ? { mantissa: low, exponent: -1074 }
    : { mantissa: low | (1n << 52n), exponent: power - 1075 };
}

/** A quotient rounded to a whole number, halves to the even one. */
function halfEven(numerator: bigint, denominator: bigint): bigint {
  const quotient = numerator / denominator;
  const twice = 2n * (numerator % denominator);
  const isUp = twice > denominator || (twice === denominator && quotient % 2n === 1n);
  return quotient + (isUp ? 1n : 0n);
}

/** The digits of a float's absolute value times 10 ** digits, rounded as Python does: exactly, halves to even. */
function scaled(value: number, digits: number): bigint {
  const { mantissa, exponent } = fractionOf(value);
  let numerator = mantissa;
  let denominator = 1n;
  if (exponent >= 0) numerator <<= BigInt(exponent);
  else denominator <<= BigInt(-exponent);
  if (digits >= 0) numerator *= 10n ** BigInt(digits);
  else denominator *= 10n ** BigInt(-digits);
  return halfEven(numerator, denominator);
}

/** A float with so many digits after the point. */
export function fixed(value: number, digits: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
  const text = scaled(value, digits).toString().padStart(digits + 1, "0");
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const point = text.length - digits;
  return `${sign}${text.slice(0, point)}${digits > 0 ? `.${text.slice(point)}` : ""}`;
}

/** Most digits that rounding is asked for. */
const MAX_DIGITS = 30;

/** Rounds a number to so many digits after the point. */
export function roundTo(value: bigint | number, digits: number): bigint | number {
  if (Math.abs(digits) > MAX_DIGITS) throw new UnsupportedError(`rounding to ${digits} digits`);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return value;
    const text = digits >= 0 ? fixed(value, digits) : `${scaled(value, digits)}e${-digits}`;
    const rounded = Math.abs(Number(text));
    return value < 0 || Object.is(value, -0) ? -rounded : rounded;
  }
  if (digits >= 0) return value;
  const unit = 10n ** BigInt(-digits);
  const rounded = halfEven(value < 0n ? -value : value, unit) * unit;
  return value < 0n ? -rounded : rounded;
}

const PLACE =
  /%(?:\((?<name>[^()]*)\))?(?<flags>[-+ 0#]*)(?<width>\d+|\*)?(?:\.(?<digits>\d+|\*))?[hlL]?(?<kind>[^]?)/gu;

/** Most characters that a place is filled up to. */
const MAX_WIDTH = 1000;

/**
 * A text with `%` before places for values.
 *
 * @param text The text.
 * @param values A tuple, a mapping for named places, or the one value.
 */
export function formatPercent(text: string, values: Value, budget: Budget): string {
  const items = values instanceof Tuple ? values.items : [values];
  let at = 0;
  let named = false;
  const result = text.replace(PLACE, (...args) => {
    const { name, flags, width, digits, kind } = args.at(-1) as Record<string, string | undefined>;
    if (kind === "%" && name === undefined) {
      if (flags !== "" || width !== undefined || digits !== undefined) {
        throw new UnsupportedError("%% with a width");
      }
      return "%";
    }
    if (width === "*" || digits === "*") throw new UnsupportedError('"*" as a width in %');
    let value: Value | undefined;
    if (name !== undefined) {
      named = true;
      if (!(values instanceof Dict)) return fail("format requires a mapping");
      value = values.get(name);
      if (value === undefined) return fail(`KeyError: ${name}`);
    } else if (at >= items.length) return fail("not enough arguments for format string");
    else value = items[at++]!;
    const piece = percentPiece(value, { flags: flags!, digits, kind: kind! }, budget);
    budget.spend(piece.length);
    // Only numbers are filled up with zeros.
    const fill = "diufF".includes(kind!) ? flags! : flags!.replaceAll("0", "");
    return padded(piece, fill, Number(width ?? 0));
  });
  // Whatever has items by key may have more of them.
  const isMapping = [Dict, List, Range, Undefined].some((kind) => values instanceof kind);
  if (at < items.length && !(named || isMapping)) {
    return fail("not all arguments converted during string formatting");
  }
  budget.checkSize(result.length);
  return result;
}

/** A place in a text, as it is written after "%". */
interface PercentPlace {
  readonly flags: string;
  readonly digits: string | undefined;
  readonly kind: string;
}

function percentPiece(value: Value, { flags, digits, kind }: PercentPlace, budget: Budget): string {
  if (value instanceof Markup) throw new UnsupportedError("escaped text in %");
  if (kind === "s" || kind === "r") {
    const text = kind === "s" ? textOf(value, budget) : reprOf(value, budget);
    return digits === undefined ? text : [...text].slice(0, Number(digits)).join("");
  }
  if (!"diufF".includes(kind) || kind === "") throw new UnsupportedError(`%${kind}`);
  const number = numberOf(value);
  if (number === null) return fail(`%${kind} format: a real number is required, not ${typeOf(value)}`);
  const plus = flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
  const signed = (text: string) => text.startsWith("-") ? text : `${plus}${text}`;
  if ("fF".includes(kind)) {
    const places = Number(digits ?? 6);
    if (places > MAX_DIGITS || typeof number === "bigint" && BigInt(Number(number)) !== number) {
      throw new UnsupportedError("so many digits in %");
    }
    return signed(fixed(Number(number), places));
  }
  if (digits !== undefined) throw new UnsupportedError("digits of whole numbers in %");
  if (typeof number === "number" && !Number.isFinite(number)) return fail("cannot convert float to integer");
  return signed(writeInteger(typeof number === "number" ? BigInt(Math.trunc(number)) : number));
}

function padded(text: string, flags: string, width: number): string {
  if (width > MAX_WIDTH) throw new UnsupportedError(`a width of more than ${MAX_WIDTH}`);
  const missing = width - [...text].length;
  if (missing <= 0) return text;
  if (flags.includes("-")) return text + " ".repeat(missing);
  if (!flags.includes("0")) return " ".repeat(missing) + text;
  const sign = /^[-+ ]/.exec(text)?.[0] ?? "";
  return sign + "0".repeat(missing) + text.slice(sign.length);
}

/** A text with `{}` for places, as `str.format` fills them; fields of values and layouts are not done. */
export function formatBraces(text: string, { positional, named }: Given, budget: Budget): string {
  let automatic = 0;
  let isNumbered = false;
  const result = text.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/gu, (all, field) => {
    if (all === "{{" || all === "}}") return all[0]!;
    if (field === undefined) return fail(`Single '${all}' encountered in format string`);
    if (!/^(?:[\p{L}_][\p{L}\p{N}_]*|\d*)$/u.test(field)) {
      throw new UnsupportedError(`"{${field}}" in format`);
    }
    if (/^\d*$/.test(field)) {
      if (field === "" ? isNumbered : automatic > 0) {
        return fail("cannot switch between automatic and manual field numbering");
      }
      isNumbered ||= field !== "";
      const value = positional[field === "" ? automatic++ : Number(field)];
      return value === undefined ? fail("Replacement index out of range") : textOf(value, budget);
    }
    const value = named.get(field);
    return value === undefined ? fail(`KeyError: ${field}`) : textOf(value, budget);
  });
  budget.spend(result.length);
  budget.checkSize(result.length);
  return result;
}

/** Digits after the point, as an argument. */
export function digitsOf(value: Value): number {
  return smallInteger(value, "precision");
}
