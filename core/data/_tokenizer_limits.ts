/**
 * What a tokenizer file may ask for: it is a program of whoever made the model.
 *
 * @module
 */

import { DeadlineError, ModelFileError } from "../contracts/errors.ts";
import { withinTime } from "../contracts/time_limit.ts";

/** Throws what is wrong with the file. */
export type Refuse = (rule: string, value: unknown) => never;

/** Ids are below: sixty times the largest vocabulary known. Lists by id would take gigabytes otherwise. */
const MAX_IDS = 2 ** 24;
/** Longest token, in characters; the longest known are lines of dashes and spaces with some hundreds. */
const MAX_TOKEN = 4096;
/** Longest pattern, in characters. */
const MAX_PATTERN = 4096;
/** How many times longer than a text all that is put into it may make it. */
const MAX_GROWTH = 1024;

/**
 * Steps that take a time in proportion to the text, whatever the file says of them. All others, such as those with
 * patterns of the file's own, are watched.
 */
const STEADY = new Set([
  ...["ByteLevel", "ByteFallback", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "Metaspace"],
  ...["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Fuse"],
]);

/** A step of a normalizer, a pre-tokenizer or a decoder. */
interface Step {
  readonly type?: unknown;
  readonly normalizers?: unknown;
  readonly pretokenizers?: unknown;
  readonly decoders?: unknown;
  readonly pattern?: { readonly Regex?: unknown; readonly String?: unknown } | null;
  readonly [name: string]: unknown;
}

/** All steps, those within sequences one by one. */
function* stepsOf(step: unknown): Generator<Step> {
  if (typeof step !== "object" || step === null) return;
  const one = step as Step;
  const parts = one.normalizers ?? one.pretokenizers ?? one.decoders;
  if (one.type === "Sequence" && Array.isArray(parts)) { for (const part of parts) yield* stepsOf(part); }
  else yield one;
}

function isSteady({ type, pattern }: Step): boolean {
  if (typeof type !== "string") return false;
  return STEADY.has(type) ||
    (type === "Replace" && typeof pattern?.String === "string" && pattern.String !== "");
}

/** Checks the steps of a normalizer, pre-tokenizer or decoder. */
function checkSteps(name: string, step: unknown, refuse: Refuse): void {
  let growth = 1;
  for (const one of stepsOf(step)) {
    for (const pattern of [one.pattern?.Regex, one.pattern?.String]) {
      if (typeof pattern === "string" && pattern.length > MAX_PATTERN) {
        refuse(`patterns in ${name} must have at most ${MAX_PATTERN} characters`, pattern);
      }
    }
    if (one.type === "FixedLength" && !(Number.isInteger(one.length) && (one.length as number) > 0)) {
      refuse(`"length" in ${name} must be a positive integer`, one.length);
    }
    // What is put in, at worst between all characters.
    const between = one.pattern?.Regex !== undefined || one.pattern?.String === "";
    for (const field of ["content", "prepend", "replacement", "str_rep", "prefix"]) {
      const text = one[field];
      if (typeof text === "string") growth *= Math.max(1, text.length + (between ? 1 : 0));
    }
    if (growth > MAX_GROWTH) {
      refuse(`${name} must make texts at most ${MAX_GROWTH} times longer`, `${growth} times or more`);
    }
  }
}

/** Checks a token and its id. */
function checkToken(where: string, token: unknown, id: unknown, refuse: Refuse): void {
  if (typeof token !== "string" || token.length > MAX_TOKEN) {
    refuse(`tokens in ${where} must be texts of at most ${MAX_TOKEN} characters`, token);
  }
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= MAX_IDS) {
    refuse(`ids in ${where} must be non-negative integers below ${MAX_IDS}`, id);
  }
}

/**
 * Checks what a `tokenizer.json` says of sizes.
 *
 * @param file Its content.
 * @param refuse Throws.
 */
export function checkTokenizerSizes(file: Readonly<Record<string, unknown>>, refuse: Refuse): void {
  const model = (file.model ?? {}) as Record<string, unknown>;
  const { vocab } = model;
  if (Array.isArray(vocab)) {
    for (const [id, item] of vocab.entries()) {
      checkToken("model.vocab", Array.isArray(item) ? item[0] : item, id, refuse);
    }
  } else if (typeof vocab === "object" && vocab !== null) {
    for (const [token, id] of Object.entries(vocab)) checkToken("model.vocab", token, id, refuse);
  }
  for (const added of Array.isArray(file.added_tokens) ? file.added_tokens : []) {
    const { content, id } = (added ?? {}) as Record<string, unknown>;
    checkToken("added_tokens", content, id, refuse);
    if (content === "") refuse("added_tokens must not be empty", content);
  }
  for (
    const field of [
      "continuing_subword_prefix",
      "continuing_subword_suffix",
      "end_of_word_suffix",
      "unk_token",
    ]
  ) {
    const text = model[field];
    if (typeof text === "string" && text.length > MAX_TOKEN) {
      refuse(`model.${field} must have at most ${MAX_TOKEN} characters`, text);
    }
  }
  for (const name of ["normalizer", "pre_tokenizer", "decoder"]) checkSteps(name, file[name], refuse);
}

/** Shortest limit, in milliseconds, and what each character adds to it. */
const LIMIT_MS = 2000;
const LIMIT_MS_A_CHARACTER = 0.01;

/** Runs one of a tokenizer's functions on something of so many characters. */
export type Watch = <T>(action: string, length: number, run: () => T) => T;

/**
 * How the functions of a tokenizer are run: within a time, unless all that the file asks for is steady.
 *
 * @param file Content of the `tokenizer.json`.
 * @param name How errors call the file.
 * @param parts Which of its parts the function uses.
 * @returns Runs it. Throws a `ModelFileError` if it takes too long, or fails where the file has its say.
 */
export function watchOf(
  file: Readonly<Record<string, unknown>>,
  name: string,
  parts: readonly string[],
): Watch {
  const model = (file.model ?? {}) as Record<string, unknown>;
  const steps = parts.flatMap((part) => [...stepsOf(file[part])]);
  if (model.type === "BPE" && steps.every(isSteady)) return (_action, _length, run) => run();
  return (action, length, run) => {
    const limitMs = Math.ceil(LIMIT_MS + length * LIMIT_MS_A_CHARACTER);
    try {
      return withinTime(action, limitMs, run);
    } catch (cause) {
      const why = cause instanceof DeadlineError
        ? `be done within ${limitMs} ms: they are not`
        : `take it: ${cause instanceof Error ? cause.message : cause}`;
      throw new ModelFileError(`Cannot ${action} as the patterns and steps of ${name} must ${why}`, {
        cause,
      });
    }
  };
}
