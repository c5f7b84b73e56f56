/**
 * Byte-level BPE tokenizers in the manner of GPT-2, from a `tokenizer.json`.
 *
 * @module
 */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { CheckpointError } from "../errors.ts";

/** Text to tokens and back. */
export interface Tokenizer {
  /** V: all ids are below. */
  readonly vocabSize: number;
  /** The token that ends a text, and stands between prompt and completion. */
  readonly eos: number;
  /**
   * Encodes a text. Nothing is put before or after it.
   *
   * @param text Any text.
   * @returns Token ids, shape [T].
   */
  encode(text: string): number[];
  /**
   * Decodes tokens. Special tokens are written out; bytes that are no UTF-8 become U+FFFD.
   *
   * @param ids Token ids, shape [T].
   * @returns The text.
   * @throws {RangeError} If an id is not in the vocabulary.
   */
  decode(ids: ArrayLike<number>): string;
}

/** How to read a tokenizer. */
export interface TokenizerOptions {
  /** The special token that ends a text. @default {"<|endoftext|>"} */
  readonly eos?: string;
  /** How errors call the file. @default {"the tokenizer"} */
  readonly name?: string;
}

/** GPT-2's visible characters for the 256 bytes. */
function* byteCharacters(): Generator<string> {
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    yield String.fromCodePoint(printable ? byte : next++);
  }
}

/** True for a step of type `type`, or a sequence that has one. */
function hasStep(step: unknown, type: string): boolean {
  if (typeof step !== "object" || step === null) return false;
  const fields = step as { type?: unknown; pretokenizers?: unknown; decoders?: unknown };
  if (fields.type === type) return true;
  const parts = fields.pretokenizers ?? fields.decoders;
  return Array.isArray(parts) && parts.some((part) => hasStep(part, type));
}

/**
 * Makes a tokenizer from the content of a `tokenizer.json`.
 *
 * @param json The parsed content.
 * @param options The name of the special token.
 * @returns The tokenizer.
 * @throws {CheckpointError} If it is not a byte-level BPE tokenizer with an entry for each byte and the
 * special token.
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
  const { eos: eosToken = "<|endoftext|>", name = "the tokenizer" } = options;
  const fail = (rule: string, value: unknown, cause?: unknown): never => {
    const text = (JSON.stringify(value) ?? "undefined").slice(0, 80);
    throw new CheckpointError(
      `Cannot use ${name} as ${rule}: current value is ${text}`,
      cause === undefined ? undefined : { cause },
    );
  };
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    return fail("it must be an object", json);
  }
  const file = json as Record<string, unknown>;
  const model = (file.model ?? {}) as Record<string, unknown>;
  if (model.type !== "BPE") fail('model.type must be "BPE"', model.type);
  if (typeof model.vocab !== "object" || model.vocab === null) {
    fail("model.vocab must be an object", model.vocab);
  }
  const ids = Object.values(model.vocab as Record<string, unknown>);
  const badId = ids.find((id) => !Number.isInteger(id) || (id as number) < 0);
  if (badId !== undefined) fail("ids in model.vocab must be non-negative integers", badId);
  if (!Array.isArray(model.merges)) fail("model.merges must be a list", model.merges);
  if (!hasStep(file.pre_tokenizer, "ByteLevel")) fail("pre_tokenizer must be ByteLevel", file.pre_tokenizer);
  if (!hasStep(file.decoder, "ByteLevel")) fail("decoder must be ByteLevel", file.decoder);
  if (!Array.isArray(file.added_tokens)) fail("added_tokens must be a list", file.added_tokens);

  let inner: HuggingFaceTokenizer;
  try {
    inner = new HuggingFaceTokenizer(
      { normalizer: null, post_processor: null, ...file },
      { clean_up_tokenization_spaces: false },
    );
  } catch (error) {
    return fail("it must be complete", String(error), error);
  }
  const entries = inner.get_vocab();
  for (const character of byteCharacters()) {
    if (!entries.has(character)) {
      fail("model.vocab must have an entry for each byte: one has none", character);
    }
  }
  const eos = inner.get_added_tokens_decoder().entries().find(([, token]) => token.content === eosToken)?.[0];
  if (eos === undefined) return fail(`added_tokens must have "${eosToken}"`, file.added_tokens);
  const known = new Set(entries.values());
  let vocabSize = 0;
  for (const id of known) vocabSize = Math.max(vocabSize, id + 1);
  return {
    vocabSize,
    eos,
    encode(text: string): number[] {
      return text === "" ? [] : inner.encode(text, { add_special_tokens: false }).ids;
    },
    decode(ids: ArrayLike<number>): string {
      const list = Array.from(ids);
      const bad = list.find((id) => !known.has(id));
      if (bad !== undefined) {
        throw new RangeError(
          `Cannot decode tokens as ids must be in the vocabulary (below ${vocabSize}): current value is ${bad}`,
        );
      }
      return list.length === 0 ? "" : inner.decode(list, { skip_special_tokens: false });
    },
  };
}

/**
 * Reads a `tokenizer.json`.
 *
 * @param path The file.
 * @param options The name of the special token.
 * @returns The tokenizer.
 * @throws {CheckpointError} If the file cannot be read, or is not what {@linkcode tokenizerFromJson} needs.
 */
export async function loadTokenizer(path: string | URL, options: TokenizerOptions = {}): Promise<Tokenizer> {
  let json: unknown;
  try {
    json = JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    throw new CheckpointError(
      `Cannot read ${path} as it must be a readable JSON file: ${
        error instanceof Error ? error.message : error
      }`,
      { cause: error },
    );
  }
  return tokenizerFromJson(json, { name: String(path), ...options });
}
