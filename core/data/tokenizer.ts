/**
 * Tokenizers, and those of a `tokenizer.json`.
 *
 * @module
 */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { readJson } from "../files/json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { mendPatterns } from "./_rust_patterns.ts";
import { knownIds, type PlacedTokens, type Places, placesBy } from "./_token_places.ts";
import { checkTokenizerSizes, watchOf } from "./_tokenizer_limits.ts";

export type { PlacedTokens } from "./_token_places.ts";

/**
 * Text to tokens and back.
 *
 * @category Model and data
 */
export interface Tokenizer {
  /** V: all ids are below. */
  readonly vocabSize: number;
  /** The token that ends a text, and stands between prompt and completion. */
  readonly eos: number;
  /**
   * All tokens that end a text which the model writes, `eos` first: models that chat have one for the end of a turn
   * too, and name both in `generation_config.json`. @default {`eos` alone}
   */
  readonly ends?: readonly number[];
  /** Ids of all tokens that are no special ones are below; those may have no row in the model. @default {V} */
  readonly ordinarySize?: number;
  /**
   * The token that the model's own tokenizer puts before a text, as LLaMA and OPT were trained with; `null` for
   * models that have none, such as GPT-2. The functions that encode a whole sequence put it first, once.
   */
  readonly bos: number | null;
  /**
   * Encodes a text. Nothing is put before or after it.
   *
   * @param text Any text.
   * @returns Token ids, shape [T].
   * @throws {ModelFileError} If the tokenizer's own patterns take longer than some seconds.
   */
  encode(text: string): number[];
  /**
   * Encodes a text, and says which part of it each token is. Tokenizers without this are given texts in pieces
   * where only a part is to be learnt.
   *
   * @param text Any text.
   * @returns Tokens as `encode` gives them, and their places.
   * @throws {ModelFileError} If the places cannot be told, or what `encode` throws.
   */
  encodeWithPlaces?(text: string): PlacedTokens;
  /**
   * Decodes tokens. Special tokens are written out; bytes that are no UTF-8 become U+FFFD. Models may have rows
   * for ids that have no text: those give nothing.
   *
   * @param ids Token ids, shape [T].
   * @returns The text.
   * @throws {RangeError} If an id is no integer of at least 0.
   * @throws {ModelFileError} If the tokenizer's own patterns take longer than some seconds.
   */
  decode(ids: ArrayLike<number>): string;
}

/**
 * All tokens that end a text.
 *
 * @param tokenizer The tokenizer.
 * @returns At least one; `eos` first.
 */
export function endsOf(tokenizer: Pick<Tokenizer, "eos" | "ends">): readonly number[] {
  return tokenizer.ends ?? [tokenizer.eos];
}

/** How to read a tokenizer. */
export interface TokenizerOptions {
  /** The special token that ends a text. @default {"<|endoftext|>"} */
  readonly eos?: string;
  /** The token that begins a text, where the post-processor of the file puts none there. @default {none} */
  readonly bos?: string;
  /** Further tokens that end a text. @default {none} */
  readonly ends?: readonly number[];
  /** How errors call the file. @default {"the tokenizer"} */
  readonly name?: string;
}

/** True for a step of type `type`, or a sequence that has one. */
function hasStep(step: unknown, type: string): boolean {
  if (typeof step !== "object" || step === null) return false;
  const fields = step as { type?: unknown; pretokenizers?: unknown; decoders?: unknown };
  if (fields.type === type) return true;
  const parts = fields.pretokenizers ?? fields.decoders;
  return Array.isArray(parts) && parts.some((part) => hasStep(part, type));
}

/** Names of the tokens that a post-processor puts before a text. */
function tokensBefore(step: unknown): string[] {
  if (typeof step !== "object" || step === null) return [];
  const { type, single, processors, cls } = step as Record<string, unknown>;
  if (type === "Sequence" && Array.isArray(processors)) return processors.flatMap(tokensBefore);
  // BERT's and RoBERTa's write the token with its id, in this order.
  if (Array.isArray(cls)) return [String(cls[0])];
  if (type !== "TemplateProcessing" || !Array.isArray(single)) return [];
  const text = single.findIndex((piece) => piece?.Sequence !== undefined);
  return single.slice(0, Math.max(0, text)).map((piece) => String(piece?.SpecialToken?.id));
}

/**
 * Makes a tokenizer from the content of a `tokenizer.json`.
 *
 * @param json The parsed content.
 * @param options Names of the special tokens.
 * @returns The tokenizer.
 * @throws {ModelFileError} If it is not complete, has no special token of that name, or puts more than one token
 * before a text. Bytes that the vocabulary lacks are left out of texts, as the tokenizers package does.
 *
 * @example
 * ```ts ignore
 * import { tokenizerFromJson } from "@edgetuner/core";
 *
 * const tokenizer = tokenizerFromJson(JSON.parse(await Deno.readTextFile("tokenizer.json")));
 * tokenizer.decode(tokenizer.encode("Hello")); // "Hello"
 * ```
 */
export function tokenizerFromJson(json: unknown, options: TokenizerOptions = {}): Tokenizer {
  const { eos: eosToken = "<|endoftext|>", ends = [], name = "the tokenizer" } = options;
  const fail = (rule: string, value: unknown, cause?: unknown): never => {
    throw new ModelFileError(
      `Cannot use ${name} as ${rule}: current value is ${showValue(value)}`,
      cause === undefined ? undefined : { cause },
    );
  };
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    return fail("it must be an object", json);
  }
  const file = json as Record<string, unknown>;
  const model = (file.model ?? {}) as Record<string, unknown>;
  if (typeof model.type !== "string") fail("model.type must be a name", model.type);
  if (model.type === "BPE") {
    if (typeof model.vocab !== "object" || model.vocab === null) {
      fail("model.vocab must be an object", model.vocab);
    }
    if (!Array.isArray(model.merges)) fail("model.merges must be a list", model.merges);
  }
  if (hasStep(file.pre_tokenizer, "ByteLevel") !== hasStep(file.decoder, "ByteLevel")) {
    fail("pre_tokenizer and decoder must both be ByteLevel or neither", file.decoder);
  }
  if (!Array.isArray(file.added_tokens)) fail("added_tokens must be a list", file.added_tokens);
  checkTokenizerSizes(file, fail);

  let inner: HuggingFaceTokenizer;
  try {
    inner = new HuggingFaceTokenizer(
      { normalizer: null, post_processor: null, ...file },
      { clean_up_tokenization_spaces: false },
    );
  } catch (error) {
    return fail("it must be complete", String(error), error);
  }
  mendPatterns(inner.pre_tokenizer);
  const entries = inner.get_vocab();
  entries.delete(undefined as unknown as string); // ids without a text
  const eos = inner.get_added_tokens_decoder().entries().find(([, token]) => token.content === eosToken)?.[0];
  if (eos === undefined) return fail(`added_tokens must have "${eosToken}"`, file.added_tokens);
  const before = tokensBefore(file.post_processor);
  if (before.length > 1) fail("post_processor must put at most one token before a text", before);
  const bosToken = before[0] ?? options.bos;
  const bos = bosToken === undefined ? null : entries.get(bosToken);
  if (bos === undefined) return fail("the token that begins a text must be in the vocabulary", bosToken);
  const texts = new Map(entries.entries().map(([token, id]) => [id, token]));
  const special = new Set(inner.get_added_tokens_decoder().keys());
  const sizeOf = (ids: Iterable<number>) =>
    Iterator.from(ids).reduce((size, id) => Math.max(size, id + 1), 0);
  const encoding = watchOf(file, name, ["normalizer", "pre_tokenizer"]);
  const decoding = watchOf(file, name, ["decoder"]);
  const encode = (text: string): number[] =>
    text === "" ? [] : encoding(
      "encode the text",
      text.length,
      () => inner.encode(text, { add_special_tokens: false }).ids,
    );
  let places: Places | undefined;
  return {
    vocabSize: sizeOf(texts.keys()),
    ordinarySize: sizeOf(texts.keys().filter((id) => !special.has(id))),
    eos,
    ends: [...new Set([eos, ...ends.filter((id) => texts.has(id))])],
    bos,
    encode,
    encodeWithPlaces(text: string): PlacedTokens {
      places ??= placesBy({ file, texts, special, name });
      return places(text, encode(text));
    },
    decode(ids: ArrayLike<number>): string {
      const list = knownIds(ids, (id) => texts.has(id));
      if (list.length === 0) return "";
      return decoding("decode tokens", list.length, () => inner.decode(list, { skip_special_tokens: false }));
    },
  };
}

/**
 * Reads a `tokenizer.json`.
 *
 * @param path The file.
 * @param options Names of the special tokens.
 * @returns The tokenizer.
 * @throws {ModelFileError} If the file cannot be read, or is not what {@linkcode tokenizerFromJson} needs.
 * @category Model and data
 */
export async function loadTokenizer(path: string | URL, options: TokenizerOptions = {}): Promise<Tokenizer> {
  let json: unknown;
  try {
    json = await readJson(path);
  } catch (error) {
    throw new ModelFileError(
      `Cannot read ${path} as it must be a readable JSON file: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
  return tokenizerFromJson(json, { name: String(path), ...options });
}
