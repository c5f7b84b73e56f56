/**
 * Command line flags: typed, checked, and described by `--help`.
 *
 * @module
 */

import { type Call, OWN_CALL } from "../process/invocation.ts";
import { parseArgs } from "@std/cli/parse-args";
import { parseJson, showValue } from "@edgetuner/core";
import { parse as parseYaml, stringify as stringifyYaml } from "yaml";
import { terminalColumns } from "../output/terminal.ts";
import { messageInCallForm, shownPath } from "../process/places.ts";
import { groupedNames, helpText } from "./help.ts";
import type { Flag, NumberFlag, NumberRange, ProgramText, SwitchFlag, TextFlag } from "./kinds.ts";

export type { Flag, ProgramText } from "./kinds.ts";
import { AdvisedError } from "./memory_advice.ts";
import { withFlag } from "./named_flag.ts";
import { didYouMean, unknownName } from "./suggest.ts";
import { isInterrupted } from "../process/interrupts.ts";
import { INTERRUPTED, LAUNCHER_FLAG, supervise } from "../process/supervisor.ts";
import { exitCodeFor } from "../process/exit_codes.ts";

/** The values of flags. */
export type FlagValues<S extends Record<string, Flag>> = {
  readonly [K in keyof S]: S[K] extends SwitchFlag ? boolean : S[K] extends NumberFlag ? number : string;
};

/** A flag that takes text. */
export function text(value: string, initial: string, help: string, choices?: readonly string[]): TextFlag {
  return { kind: "text", value, default: initial, help, ...(choices ? { choices } : {}) };
}

/** A flag that takes text, or stands alone, which means `alone`. */
export function textOrAlone(value: string, initial: string, alone: string, help: string): TextFlag {
  return { kind: "text", value, default: initial, help, alone };
}

/** A flag that takes a number in a range. */
export function number(
  value: string,
  initial: number,
  help: string,
  range: NumberRange = {},
): NumberFlag {
  return { kind: "number", value, default: initial, help, ...range };
}

/** A number that is chosen to fit the model where it is not given. */
export function fitting(flag: NumberFlag): NumberFlag {
  return { ...flag, fits: true };
}

/** A flag that takes an integer in a range. */
export function integer(
  value: string,
  initial: number,
  help: string,
  range: NumberRange = {},
): NumberFlag {
  return { kind: "integer", value, default: initial, help, ...range };
}

/** A flag that is there or not. */
export function toggle(help: string): SwitchFlag {
  return { kind: "switch", help };
}

/** A mistake of the user: one line, no stack. */
export class UsageError extends Error {
  /** Always `"UsageError"`. */
  override readonly name = "UsageError";
}

/** Other names that people try, with the flag that is meant: the first of them that the command has. */
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  "lr": ["rate"],
  "learning-rate": ["rate"],
  "batch-size": ["batch"],
  "max-length": ["length", "max-tokens"],
  "max-new-tokens": ["max-tokens"],
  "max-steps": ["steps"],
  "buckets": ["pad-to-multiple-of"],
  "lora-rank": ["rank"],
  "lora-alpha": ["alpha"],
  "lora-dropout": ["dropout"],
  "output-dir": ["save", "out", "output"],
  "checkpoint": ["state"],
  "checkpoint-every": ["state-every"],
  "checkpoint-seconds": ["state-seconds"],
};

/** The flag that is meant by a name. */
function flagNamed(flags: Record<string, Flag>, name: string): string {
  if (Object.hasOwn(flags, name) || !Object.hasOwn(ALIASES, name)) return name;
  return ALIASES[name]!.find((meant) => Object.hasOwn(flags, meant)) ?? name;
}

/** What to say of a name that no flag has. */
function hintFor(flags: Record<string, Flag>, name: string): string {
  if (["epochs", "patience"].includes(name) && Object.hasOwn(flags, "steps")) {
    // Of a split run the data device knows what a pass over the data takes, and how validation goes.
    return Object.hasOwn(flags, "join-token")
      ? `; the data device has it: edgetuner join --${name}`
      : "; use --steps";
  }
  const aliases = Object.keys(ALIASES).filter((alias) => flagNamed(flags, alias) !== alias);
  const found = didYouMean(name, [...Object.keys(flags), ...aliases], "--");
  return found === "" ? "; see --help" : found;
}

/** The values of flags that were given; the others are not there. */
export type GivenFlags<S extends Record<string, Flag>> = Partial<FlagValues<S>>;

/**
 * Reads flags from the command line. With `--help` prints the help and ends the program.
 *
 * @throws {UsageError} If a flag is unknown or its value out of range.
 */
export function readFlags<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  call: Call = OWN_CALL,
): FlagValues<S> {
  return withDefaults(flags, readGiven(program, flags, call));
}

/** Values of all flags: those given, else their defaults. */
export function withDefaults<const S extends Record<string, Flag>>(
  flags: S,
  given: GivenFlags<S>,
): FlagValues<S> {
  const initial = Object.entries(flags).map(([name, f]) => [name, f.kind === "switch" ? false : f.default]);
  return { ...Object.fromEntries(initial), ...given };
}

/**
 * As `readFlags`, but only the flags that are on the command line or in the file of `--config`.
 *
 * @throws {UsageError} If a flag is unknown or its value out of range.
 */
export function readGiven<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  call: Call = OWN_CALL,
): GivenFlags<S> {
  const { given, isToPrint } = parseGiven(program, flags, call);
  if (isToPrint) printConfig(flags, given);
  return given;
}

/** Prints a file for `--config`, and ends the program. */
export function printConfig<const S extends Record<string, Flag>>(
  flags: S,
  given: GivenFlags<S>,
  chosen: GivenFlags<S> = {},
): never {
  console.log(configText(flags, given as Values, chosen as Values));
  throw new ProgramEnd(0);
}

type Values = Readonly<Record<string, string | number | boolean>>;

/** As `readGiven`, but what `--print-config` asks for is left to the caller. */
export function parseGiven<const S extends Record<string, Flag>>(
  program: ProgramText,
  flags: S,
  call: Call = OWN_CALL,
): { readonly given: GivenFlags<S>; readonly isToPrint: boolean } {
  const names = Object.entries(flags);
  const unknown: string[] = [];
  const parsed = parseArgs(withDashes(flags, withValues(flags, named(flags, call.args))), {
    alias: { help: "h" },
    boolean: ["help", "print-config", ...names.filter(([, f]) => f.kind === "switch").map(([n]) => n)],
    string: ["config", ...names.filter(([, f]) => f.kind !== "switch").map(([n]) => n)],
    unknown: (argument: string) => {
      unknown.push(argument);
      return false;
    },
  }) as Record<string, unknown>;
  if (parsed.help === true) {
    console.log(helpText(program, flags, terminalColumns(), call.form));
    throw new ProgramEnd(0);
  }
  if (unknown.length > 0) {
    throw new UsageError(
      `Cannot run ${program.name} as flags must be known: "${unknown[0]}" is not${
        hintFor(flags, unknown[0]!.replace(/^--?|=.*$/gs, ""))
      }`,
    );
  }
  const config = parsed.config === undefined ? {} : readConfig(program, flags, lastOf(parsed.config));
  const values: Record<string, string | number | boolean> = {};
  for (const [name, flag] of names) {
    if (flag.kind === "switch") {
      if (parsed[name] === true || config[name] === true) values[name] = true;
      continue;
    }
    const given = parsed[name] ?? config[name];
    if (given === undefined) continue;
    const last = lastOf(given);
    values[name] = flag.kind === "text"
      ? textValue(program, name, flag, last)
      : numberValue(program, name, flag, last);
  }
  return { given: values as GivenFlags<S>, isToPrint: parsed["print-config"] === true };
}

/** Flags that a file with settings should not hold: secrets, and what launchers say. */
const NOT_IN_CONFIG: readonly string[] = ["token", "join-token", "admin-token", "nats", LAUNCHER_FLAG];

/** A file for `--config`: the values given and chosen, and the defaults of all other flags as comments. */
function configText(flags: Record<string, Flag>, given: Values, chosen: Values): string {
  const lines = groupedNames(Object.keys(flags)).flatMap(({ title, names }) => {
    const kept = names.filter((name) => !NOT_IN_CONFIG.includes(name));
    const rows = kept.map((name) => {
      const flag = flags[name]!;
      const initial = flag.kind === "switch"
        ? false
        : flag.kind === "text"
        ? shownPath(flag.default)
        : flag.default;
      const value = given[name] ?? chosen[name];
      if (value === undefined && "fits" in flag && flag.fits) return `# ${name}: to fit the model`;
      const row = stringifyYaml({ [name]: value ?? initial }, { lineWidth: 0 }).trimEnd();
      return value === undefined ? `# ${row}` : row;
    });
    return rows.length === 0 ? [] : [`# ${title}`, ...rows, ""];
  });
  return lines.join("\n").trimEnd();
}

/** Values as flags of a command line; those that are empty, or switches that are not on, are left out. */
export function flagArgs(values: Readonly<Record<string, string | number | boolean | undefined>>): string[] {
  return Object.entries(values).flatMap(([name, value]) => {
    if (value === undefined || value === "" || value === false) return [];
    if (value === true) return [`--${name}`];
    // What begins with a dash would be read as a flag.
    return `${value}`.startsWith("-") ? [`--${name}=${value}`] : [`--${name}`, `${value}`];
  });
}

/** Flags that stand alone with the value that this means. */
function withValues(flags: Record<string, Flag>, args: readonly string[]): string[] {
  return args.map((arg, i) => {
    const flag = arg.startsWith("--") ? flags[arg.slice(2)] : undefined;
    if (flag?.kind !== "text" || flag.alone === undefined) return arg;
    return args[i + 1]?.startsWith("--") ?? true ? `${arg}=${flag.alone}` : arg;
  });
}

/** Arguments with the flags that are meant in place of other names for them. */
function named(flags: Record<string, Flag>, args: readonly string[]): string[] {
  return args.map((arg) => {
    const [, name = "", rest = ""] = /^--([a-z-]+)(=.*)?$/s.exec(arg) ?? [];
    return name === "" ? arg : `--${flagNamed(flags, name)}${rest}`;
  });
}

/**
 * `--name ""` and `--name -1` as `--name=` and `--name=-1`: by themselves such values are not taken for values. Of
 * flags that take text so is all that begins with one dash, but for `-h`.
 */
function withDashes(flags: Record<string, Flag>, args: readonly string[]): string[] {
  const joined: string[] = [];
  for (const arg of args) {
    const last = joined.at(-1);
    const before = last?.startsWith("--") ? flags[last.slice(2)] : undefined;
    const isValue = arg === "" || /^-\.?\d/.test(arg) ||
      (before?.kind === "text" && arg !== "-h" && /^-(?!-)/.test(arg));
    if (isValue && last?.startsWith("--") && !last.includes("=")) {
      joined[joined.length - 1] = `${last}=${arg}`;
    } else joined.push(arg);
  }
  return joined;
}

/** Of a flag that is given several times the last one counts. */
function lastOf(given: unknown): string {
  return String(Array.isArray(given) ? given.at(-1) : given);
}

/** Most bytes of a file with flags. */
const MAX_CONFIG = 2 ** 18;

/** Values of flags from a file; lists become `a,b,c`. */
function readConfig(
  program: ProgramText,
  flags: Record<string, Flag>,
  file: string,
): Record<string, string | boolean> {
  const refuse = (rule: string, cause?: unknown): never => {
    throw new UsageError(`Cannot run ${program.name} as ${rule}`, { cause });
  };
  let parsed: unknown;
  try {
    const { size } = Deno.statSync(file);
    if (size > MAX_CONFIG) throw new RangeError(`at most ${MAX_CONFIG} bytes: it has ${size}`);
    const content = Deno.readTextFileSync(file);
    // Flags need no aliases: with them a short file can stand for gigabytes, or for itself.
    parsed = file.endsWith(".json") ? parseJson(content) : parseYaml(content, { maxAliasCount: 0 });
  } catch (cause) {
    // What YAML's parser says goes on with the lines in question.
    const [first] = (cause as Error).message.split(/:?\n/);
    refuse(`--config must be a file of JSON or YAML: current value is "${file}" (${first})`, cause);
  }
  if (parsed === null) return {}; // comments alone
  if (typeof parsed !== "object" || Array.isArray(parsed)) {
    return refuse(`${file} must hold names of flags with their values: it holds ${showValue(parsed)}`);
  }
  const values: Record<string, string | boolean> = {};
  for (const [given, value] of Object.entries(parsed)) {
    const name = flagNamed(flags, given);
    const flag = Object.hasOwn(flags, name) ? flags[name] : undefined;
    if (flag === undefined) {
      refuse(`flags must be known: "${name}" in ${file} is not${hintFor(flags, name)}`);
    }
    const isList = Array.isArray(value) && value.every((v) => typeof v === "string" || typeof v === "number");
    if (flag!.kind === "text" && flag!.alone !== undefined && typeof value === "boolean") {
      if (value) values[name] = flag!.alone;
      continue;
    }
    const isWrong = flag!.kind === "switch"
      ? typeof value !== "boolean"
      : typeof value === "boolean" || (typeof value === "object" && !isList);
    if (isWrong) {
      refuse(
        `"${name}" in ${file} must be ${
          flag!.kind === "switch" ? "true or false" : "a text, a number or a list of them"
        }: current value is ${showValue(value)}`,
      );
    }
    values[name] = typeof value === "boolean" && flag!.kind === "switch" ? value : String(value);
  }
  return values;
}

/** What a flag that takes a path is said to take, in the help. */
const PATHS: readonly string[] = ["DIR", "DIRS", "FILE", "PATH"];

function textValue(program: ProgramText, name: string, flag: TextFlag, given: string): string {
  if (flag.choices && !flag.choices.includes(given)) {
    throw new UsageError(
      `Cannot run ${program.name} as --${name} must be one of ${
        flag.choices.filter((c) => c !== "").join(", ")
      }: ${unknownName(given, flag.choices)}`,
    );
  }
  // `--save false` is meant to switch something off: a folder of that name is not what is wanted.
  if (PATHS.includes(flag.value) && (given === "true" || given === "false")) {
    throw new UsageError(
      `Cannot run ${program.name} as --${name} must be a path: current value is "${given}"; leave the flag out, ` +
        `or write ./${given} for a path of that name`,
    );
  }
  flag.check?.(given);
  return given;
}

/** Largest integer of flags that name no limit of their own: what 32 bits with a sign hold. */
const MAX_INTEGER = 2 ** 31 - 1;

function numberValue(program: ProgramText, name: string, flag: NumberFlag, given: string): number {
  const { kind, min = -Infinity, max = kind === "integer" ? MAX_INTEGER : Infinity } = flag;
  const value = Number(given);
  const isFit = given.trim() !== "" && Number.isFinite(value) && value >= min && value <= max &&
    (kind === "number" || Number.isInteger(value));
  if (isFit || (value === 0 && flag.orZero === true)) return value;
  // A limit that nobody named is news only to who went beyond it.
  const isTold = flag.max !== undefined || value > max;
  const range = min === -Infinity
    ? ""
    : isTold && max < Infinity
    ? ` from ${min} to ${max}`
    : ` of at least ${min}`;
  throw new UsageError(
    `Cannot run ${program.name} as --${name} must be ${flag.orZero === true ? "0, or " : ""}${
      kind === "integer" ? "an integer" : "a number"
    }${range}: current value is "${given}"`,
  );
}

/** Ends the program at once, with an exit code and nothing more to say. */
export class ProgramEnd extends Error {
  /** The exit code. */
  readonly code: number;

  /** @param code The exit code. */
  constructor(code: number) {
    super(`the program ends with exit code ${code}`);
    this.code = code;
  }
}

/** Errors that say all that a person needs in one line. */
const PLAIN_ERRORS: readonly string[] = [
  "ChannelClosedError",
  "ModelFileError",
  "DataFormatError",
  "DeadlineError",
  "DownloadError",
  "GenerationError",
  "HandshakeError",
  "NoAdapterError",
  "PluginError",
  "ProtocolError",
  "AddrInUse",
  "IsADirectory",
  "NotADirectory",
  "NotFound",
  "PermissionDenied",
  "RangeError",
  "RunStateError",
  "SaveError",
  "TrainingError",
];

/**
 * Runs a program in a worker, under a main thread that hears Ctrl-C (see `supervisor.ts`). Errors that a person can
 * do something about are one line on standard error, others show their stack. The exit code is as `exit_codes.ts`
 * says.
 */
export async function runProgram(
  main: () => Promise<number | void>,
  call: Call = OWN_CALL,
): Promise<void> {
  await supervise(() => exitCodeOf(main, call));
}

/** Runs a program in this thread; says what went wrong, and gives the exit code. */
export async function exitCodeOf(
  main: () => Promise<number | void>,
  { args, form }: Call = OWN_CALL,
): Promise<number> {
  try {
    return await main() ?? 0;
  } catch (thrown) {
    const { error, advice } = thrown instanceof AdvisedError ? thrown : { error: thrown, advice: [] };
    if (error instanceof ProgramEnd) return error.code;
    // What was waited for when the user asked to end.
    if (isInterrupted() && error instanceof DOMException && error.name === "AbortError") return INTERRUPTED;
    // By name: those of workers come as messages.
    if (error instanceof Error && error.name === "UsageError") {
      console.error(messageInCallForm(error.message, form));
      return exitCodeFor(error);
    }
    const isPlain = advice.length > 0 || (error instanceof Error && PLAIN_ERRORS.includes(error.name));
    if (isPlain && error instanceof Error) console.error(withFlag(error.message, args));
    else console.error(error);
    for (const line of advice) console.error(line);
    return isInterrupted() ? INTERRUPTED : exitCodeFor(error);
  }
}
