/**
 * Command line parsing by the rules of `@std/cli/parse-args`.
 *
 * @module
 */

type Name = string | undefined;
type Aliases = Readonly<Record<string, string | readonly string[]>>;

/** Type of one flag before aliases and defaults. */
type FlagValue<K, B, S, C, N> = K extends S
  ? (K extends C ? string[] : K extends N ? string | false | undefined : string | undefined)
  : K extends B ? (K extends C ? boolean[] : boolean)
  : K extends C ? (K extends N ? unknown[] | false : unknown[])
  : unknown;

/** Other names of a flag. */
type AliasOf<K, A> = K extends keyof A
  ? (A[K] extends string ? A[K] : A[K] extends readonly (infer X extends string)[] ? X : never)
  : never;

/** All declared flags, typed. Undeclared ones are `unknown`, and `any` where no flag is declared. */
type Flags<B, S, C, N, D, A> = [Extract<B | S | C, string>] extends [never]
  // deno-lint-ignore no-explicit-any -- nothing is known about any flag
  ? Record<string, any>
  :
    & Record<string, unknown>
    & {
      [K in Extract<B | S | C, string> | Extract<keyof D, string> as K | AliasOf<K, A>]: K extends keyof D
        ? (K extends B | S | C ? D[K] | NonNullable<FlagValue<K, B, S, C, N>> : unknown)
        : FlagValue<K, B, S, C, N>;
    };

/** What `parseArgs()` returns. */
export type Args<
  // deno-lint-ignore no-explicit-any -- as in @std/cli
  TFlags extends Record<string, unknown> = Record<string, any>,
  TDoubleDash extends boolean | undefined = undefined,
> =
  & TFlags
  & {
    /** Arguments that belong to no flag. */
    _: (string | number)[];
  }
  & (true extends TDoubleDash ? {
      /** Arguments after `--`. */
      "--": string[];
    }
    : Record<never, never>);

/** Options of `parseArgs()`. */
export interface ParseOptions<
  TBooleans extends boolean | Name = boolean | Name,
  TStrings extends Name = Name,
  TCollectable extends Name = Name,
  TNegatable extends Name = Name,
  TDefault extends Record<string, unknown> | undefined = Record<string, unknown> | undefined,
  TAliases extends Aliases | undefined = Aliases | undefined,
  TDoubleDash extends boolean | undefined = boolean | undefined,
> {
  /** Puts what follows `--` into `args["--"]` instead of `args._`. @default {false} */
  "--"?: TDoubleDash;
  /** Other names of flags. */
  alias?: TAliases;
  /** Flags that take no value; `true` for every `--flag` without `=`. They are `false` unless given. */
  boolean?: TBooleans | readonly Extract<TBooleans, string>[];
  /** Values of flags that are not given. */
  default?: TDefault;
  /** Parses nothing after the first argument that is no flag. @default {false} */
  stopEarly?: boolean;
  /** Flags whose values stay strings, even if they look like numbers. */
  string?: TStrings | readonly Extract<TStrings, string>[];
  /** Flags that may be repeated; their values are arrays. */
  collect?: TCollectable | readonly Extract<TCollectable, string>[];
  /** Flags that `--no-flag` sets to `false`. */
  negatable?: TNegatable | readonly Extract<TNegatable, string>[];
  /** Called for each undeclared argument; returns `false` to leave it out of the result. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

type Value = string | number | boolean;

/**
 * Parses command line arguments into an object.
 *
 * @param args Arguments, usually `Deno.args`
 * @param options Which flags there are
 * @returns Flags by name, and under `_` the arguments that belong to no flag
 */
export function parseArgs<
  TDoubleDash extends boolean | undefined = undefined,
  TBooleans extends boolean | Name = undefined,
  TStrings extends Name = undefined,
  TCollectable extends Name = undefined,
  TNegatable extends Name = undefined,
  TDefault extends Record<string, unknown> | undefined = undefined,
  const TAliases extends Aliases | undefined = undefined,
>(
  args: string[],
  options: ParseOptions<TBooleans, TStrings, TCollectable, TNegatable, TDefault, TAliases, TDoubleDash> = {},
): Args<Flags<TBooleans, TStrings, TCollectable, TNegatable, TDefault, TAliases>, TDoubleDash> {
  const parser = new Parser(options);
  parser.parse(args);
  return parser.result as Args<
    Flags<TBooleans, TStrings, TCollectable, TNegatable, TDefault, TAliases>,
    TDoubleDash
  >;
}

class Parser {
  readonly result: Record<string, unknown> & { _: (string | number)[] } = { _: [] };
  readonly #options: ParseOptions;
  readonly #aliases = new Map<string, string[]>();
  readonly #booleans: Set<string>;
  readonly #strings: Set<string>;
  readonly #collected: Set<string>;
  readonly #negatable: Set<string>;

  constructor(options: ParseOptions) {
    this.#options = options;
    for (const [key, value] of Object.entries(options.alias ?? {})) {
      const names = [key, ...(typeof value === "string" ? [value] : value)];
      for (const name of names) this.#aliases.set(name, names.filter((other) => other !== name));
    }
    this.#booleans = this.#withAliases(typeof options.boolean === "boolean" ? undefined : options.boolean);
    this.#strings = this.#withAliases(options.string);
    this.#collected = this.#withAliases(options.collect);
    this.#negatable = this.#withAliases(options.negatable);
  }

  parse(args: string[]): void {
    const end = args.indexOf("--");
    const flags = end < 0 ? args : args.slice(0, end);
    const rest = end < 0 ? [] : args.slice(end + 1);
    for (let i = 0; i < flags.length; i++) {
      const arg = flags[i]!;
      if (/^--./s.test(arg)) {
        if (this.#long(arg, flags[i + 1])) i++;
      } else if (/^-./s.test(arg)) {
        if (this.#short(arg, flags[i + 1])) i++;
      } else {
        if (this.#options.unknown?.(arg) !== false) {
          this.result._.push(this.#strings.has("_") ? arg : coerce(arg));
        }
        if (this.#options.stopEarly) {
          this.result._.push(...flags.slice(i + 1));
          break;
        }
      }
    }
    this.#fillDefaults();
    if (this.#options["--"]) this.result["--"] = rest;
    else this.result._.push(...rest);
  }

  /** Parses `--key`, `--key=value` or `--no-key`; says whether it took the next argument as value. */
  #long(arg: string, next: string | undefined): boolean {
    const negated = /^--no-./s.test(arg);
    const body = arg.slice(negated ? 5 : 2);
    const equals = body.indexOf("=", 1); // an empty name is no name
    let key = equals < 0 ? body : body.slice(0, equals);
    const value = equals < 0 ? "" : body.slice(equals + 1);
    if (value !== "") {
      this.#set(key, this.#booleans.has(key) ? value !== "false" : value, arg);
      return false;
    }
    if (negated && this.#negatable.has(key)) {
      this.#set(key, false, arg, { collect: false });
      return false;
    }
    if (negated) key = `no-${key}`;
    const takesValue = this.#options.boolean !== true && !this.#booleans.has(key);
    return this.#setFromNext(key, arg, next, takesValue && !next?.startsWith("-"));
  }

  /** Parses a cluster such as `-abc`, `-n5` or `-p=80`; says whether it took the next argument as value. */
  #short(arg: string, next: string | undefined): boolean {
    const letters = arg.slice(1);
    for (let j = 0; j < letters.length - 1; j++) {
      const letter = letters[j]!;
      const rest = letters.slice(j + 1);
      if (rest === "-") {
        this.#set(letter, "-", arg);
        continue;
      }
      const isLetter = /[A-Za-z]/.test(letter);
      if (isLetter && rest.includes("=")) {
        // A value may hold further equal signs; without any value the flag's value is undefined.
        this.#set(letter, rest.split(/=(.+)/s)[1] as Value, arg);
        return false;
      }
      if (isLetter && /-?\d+(\.\d*)?(e-?\d+)?$/.test(rest) || /\W/.test(rest[0]!)) {
        this.#set(letter, rest, arg);
        return false;
      }
      this.#set(letter, this.#strings.has(letter) ? "" : true, arg);
    }
    const last = letters.at(-1)!;
    if (last === "-") return false;
    const takesValue = !this.#booleans.has(last) && !/^--?[^-]/.test(next ?? "");
    return this.#setFromNext(last, arg, next, takesValue);
  }

  /** Sets a flag from the argument after it, if it takes that one; says whether it did. */
  #setFromNext(key: string, arg: string, next: string | undefined, takesValue: boolean): boolean {
    if (next && takesValue) {
      this.#set(key, next, arg);
      return true;
    }
    if (next === "true" || next === "false") {
      this.#set(key, next === "true", arg);
      return true;
    }
    this.#set(key, this.#strings.has(key) ? "" : true, arg);
    return false;
  }

  #set(key: string, value: Value, arg: string, { collect = true }: { collect?: boolean } = {}): void {
    const declared = this.#booleans.has(key) || this.#strings.has(key) || this.#aliases.has(key) ||
      this.#options.boolean === true && /^--[^=]+$/.test(arg);
    if (!declared && this.#options.unknown?.(arg, key, value) === false) return;
    const coerced = typeof value === "string" && !this.#strings.has(key) ? coerce(value) : value;
    for (const name of [key, ...(this.#aliases.get(key) ?? [])]) {
      put(this.result, name, coerced, collect && this.#collected.has(key));
    }
  }

  #fillDefaults(): void {
    for (const [key, value] of Object.entries(this.#options.default ?? {})) {
      if (has(this.result, key)) continue;
      for (const name of [key, ...(this.#aliases.get(key) ?? [])]) put(this.result, name, value);
    }
    for (const name of this.#booleans) {
      if (!has(this.result, name)) put(this.result, name, this.#collected.has(name) ? [] : false);
    }
    for (const name of this.#strings) {
      if (!has(this.result, name) && this.#collected.has(name)) put(this.result, name, []);
    }
  }

  #withAliases(names: string | readonly string[] | undefined): Set<string> {
    const list = typeof names === "string" ? [names] : names ?? [];
    return new Set(list.filter(Boolean).flatMap((name) => [name, ...(this.#aliases.get(name) ?? [])]));
  }
}

/** Turns what looks like a number into one. */
function coerce(value: string): string | number {
  const number = /^0x[0-9a-f]+$/i.test(value) || /^[-+]?(?:\d+(?:\.\d*)?|\.\d+)(e[-+]?\d+)?$/.test(value);
  return number ? Number(value) : value;
}

/** Sets a value; dots in the name make nested objects. */
function put(target: Record<string, unknown>, name: string, value: unknown, collect = false): void {
  const path = name.split(".");
  const last = path.pop()!;
  let object = target;
  for (const key of path) object = (object[key] ??= {}) as Record<string, unknown>;
  const old = object[last];
  if (collect && Array.isArray(old)) old.push(value);
  else object[last] = collect ? (old ? [old, value] : [value]) : value;
}

function has(target: Record<string, unknown>, name: string): boolean {
  const path = name.split(".");
  const last = path.pop()!;
  let object = target;
  for (const key of path) {
    if (!object[key]) return false;
    object = object[key] as Record<string, unknown>;
  }
  return Object.hasOwn(object, last);
}
