/**
 * Fields of messages: each says what values it takes, and reads one.
 *
 * @module
 */

import { ProtocolError } from "../contracts/errors.ts";
import { MAX_PEER_TEXT, plainText, showValue } from "../contracts/plain_text.ts";

/** A field of a message. */
export interface Field<T> {
  /** What a value must be, for people: `an integer from 0 to 7`. */
  readonly rule: string;
  /** True if it may be left out. */
  readonly optional: boolean;
  /**
   * Reads a value.
   *
   * @param value What came.
   * @param at Name of the field, for the error.
   * @throws {ProtocolError} If the value is not one of this field.
   */
  read(value: unknown, at: string): T;
}

/** A field that may be left out. */
export interface OptionalField<T> extends Field<T> {
  /** Always true. */
  readonly optional: true;
}

/** The fields of a record: for each of its properties one, optional where that may be missing. */
export type FieldsOf<M> = {
  readonly [K in keyof M]-?: Record<never, never> extends Pick<M, K>
    ? OptionalField<NonNullable<M[K]> | NullIn<M[K]>>
    : Field<M[K]>;
};

/** `null` if a type holds it. */
export type NullIn<T> = null extends T ? null : never;

function refuse(at: string, rule: string, value: unknown): never {
  throw new ProtocolError(
    `Cannot read frame as "${at}" must be ${rule}: current value is ${showValue(value)}`,
  );
}

function field<T>(rule: string, test: (value: unknown) => value is T): Field<T> {
  return { rule, optional: false, read: (value, at) => test(value) ? value : refuse(at, rule, value) };
}

/** True or false. */
export function flag(): Field<boolean> {
  return field("true or false", (v) => typeof v === "boolean");
}

/** An integer within bounds, both included. */
export function integer(from: number, to: number): Field<number> {
  const test = (v: unknown): v is number =>
    Number.isInteger(v) && (v as number) >= from && (v as number) <= to;
  return field(`an integer from ${from} to ${to}`, test);
}

/** A finite number within bounds, both included. */
export function number(from: number, to: number): Field<number> {
  const test = (v: unknown): v is number => typeof v === "number" && v >= from && v <= to;
  return field(`a number from ${from} to ${to}`, test);
}

/** One of some texts. */
export function oneOf<const T extends string>(...texts: readonly T[]): Field<T> {
  const test = (v: unknown): v is T => (texts as readonly unknown[]).includes(v);
  return field(texts.map((t) => `"${t}"`).join(" or "), test);
}

/** A name of `from` to `to` characters, none of them a control character. */
export function name(from: number, to: number): Field<string> {
  const test = (v: unknown): v is string =>
    typeof v === "string" && v.length >= from && v.length <= to && plainText(v, to) === v;
  return field(`a name of ${from} to ${to} characters, none of them a control character`, test);
}

/** Words for people: made plain, and cut to 200 characters. */
export function words(): Field<string> {
  const rule = "a text";
  return {
    rule: `${rule}, cut to ${MAX_PEER_TEXT} characters`,
    optional: false,
    read: (value, at) => typeof value === "string" ? plainText(value) : refuse(at, rule, value),
  };
}

/** A list with a number of entries within bounds. */
export function list<T>(of: Field<T>, from: number, to: number): Field<readonly T[]> {
  const rule = `a list of ${from} to ${to}, each ${of.rule}`;
  return {
    rule,
    optional: false,
    read: (value, at) =>
      Array.isArray(value) && value.length >= from && value.length <= to
        ? value.map((entry) => of.read(entry, at))
        : refuse(at, rule, value),
  };
}

/** A list with an entry for each of some fields. */
export function tuple<const T extends readonly unknown[]>(
  ...of: { readonly [K in keyof T]: Field<T[K]> }
): Field<T> {
  const rule = `a list of ${of.length}: ${of.map((f) => f.rule).join(", ")}`;
  return {
    rule,
    optional: false,
    read: (value, at) =>
      Array.isArray(value) && value.length === of.length
        ? of.map((f, i) => f.read(value[i], at)) as unknown[] as readonly unknown[] as T
        : refuse(at, rule, value),
  };
}

/** A map of known fields; any other is refused. */
export function record<M>(fields: FieldsOf<M>): Field<M> {
  return {
    rule: `a map of ${Object.keys(fields).join(", ") || "nothing"}`,
    optional: false,
    read: (value, at) => readFields(fields, value, at),
  };
}

/** A field that may be `null`. */
export function nullable<T>(of: Field<T>): Field<T | null> {
  const rule = `${of.rule}, or null`;
  return { rule, optional: false, read: (value, at) => value === null ? null : of.read(value, at) };
}

/** A field that may be left out. */
export function optional<T>(of: Field<T>): OptionalField<T> {
  return { rule: `${of.rule}, or left out`, optional: true, read: (value, at) => of.read(value, at) };
}

/**
 * Reads a map of known fields.
 *
 * @param fields What may be in it.
 * @param value What came.
 * @param at Name of the map, for the error.
 * @throws {ProtocolError} If it is no map, a field is missing, unknown, or not what it must be.
 */
export function readFields<M>(fields: FieldsOf<M>, value: unknown, at: string): M {
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
    return refuse(at, "a map", value);
  }
  const given = value as Readonly<Record<string, unknown>>;
  for (const key of Object.keys(given)) {
    if (!Object.hasOwn(fields, key)) return refuse(at, `a map of ${Object.keys(fields)} alone`, key);
  }
  const result: Record<string, unknown> = {};
  for (const [key, of] of Object.entries<Field<unknown>>(fields)) {
    if (Object.hasOwn(given, key)) result[key] = of.read(given[key], `${at}.${key}`);
    else if (!of.optional) refuse(`${at}.${key}`, of.rule, undefined);
  }
  return result as M;
}
