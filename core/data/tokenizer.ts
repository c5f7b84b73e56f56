/**
 * Tokenizers from a model's folder: `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.
 *
 * @module
 */

import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { parseJson, readJson, readTextWithin } from "../files/json_file.ts";
import { showValue } from "../contracts/plain_text.ts";
import { CheckpointError } from "../contracts/errors.ts";
import { checkTokenizerSizes, watchOf } from "./_tokenizer_limits.ts";

/** Text to tokens and back. */
export interface Tokenizer {
  /** V: all ids are below. */
  readonly vocabSize: number;
  /** The token that ends a text, and stands between prompt and completion. */
  readonly eos: number;
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
   * @throws {CheckpointError} If the tokenizer's own patterns take longer than some seconds.
   */
  encode(text: string): number[];
  /**
   * Decodes tokens. Special tokens are written out; bytes that are no UTF-8 become U+FFFD.
   *
   * @param ids Token ids, shape [T].
   * @returns The text.
   * @throws {RangeError} If an id is not in the vocabulary.
   * @throws {CheckpointError} If the tokenizer's own patterns take longer than some seconds.
   */
  decode(ids: ArrayLike<number>): string;
}

/** How to read a tokenizer. */
export interface TokenizerOptions {
  /** The special token that ends a text. @default {"<|endoftext|>"} */
  readonly eos?: string;
  /** The token that begins a text, where the post-processor of the file puts none there. @default {none} */
  readonly bos?: string;
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
 * @throws {CheckpointError} If it is not complete, has no special token of that name, puts more than one token
 * before a text, or is byte-level BPE that lacks an entry for a byte.
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
    throw new CheckpointError(
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
  const byteLevel = hasStep(file.pre_tokenizer, "ByteLevel");
  if (model.type === "BPE") {
    if (typeof model.vocab !== "object" || model.vocab === null) {
      fail("model.vocab must be an object", model.vocab);
    }
    if (!Array.isArray(model.merges)) fail("model.merges must be a list", model.merges);
  }
  if (byteLevel !== hasStep(file.decoder, "ByteLevel")) {
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
  const entries = inner.get_vocab();
  for (const character of byteLevel ? byteCharacters() : []) {
    if (!entries.has(character)) {
      fail("model.vocab must have an entry for each byte: one has none", character);
    }
  }
  const eos = inner.get_added_tokens_decoder().entries().find(([, token]) => token.content === eosToken)?.[0];
  if (eos === undefined) return fail(`added_tokens must have "${eosToken}"`, file.added_tokens);
  const before = tokensBefore(file.post_processor);
  if (before.length > 1) fail("post_processor must put at most one token before a text", before);
  const bosToken = before[0] ?? options.bos;
  const bos = bosToken === undefined ? null : entries.get(bosToken);
  if (bos === undefined) return fail("the token that begins a text must be in the vocabulary", bosToken);
  const known = new Set(entries.values());
  let vocabSize = 0;
  for (const id of known) vocabSize = Math.max(vocabSize, id + 1);
  const encoding = watchOf(file, name, ["normalizer", "pre_tokenizer"]);
  const decoding = watchOf(file, name, ["decoder"]);
  return {
    vocabSize,
    eos,
    bos,
    encode(text: string): number[] {
      if (text === "") return [];
      return encoding(
        "encode the text",
        text.length,
        () => inner.encode(text, { add_special_tokens: false }).ids,
      );
    },
    decode(ids: ArrayLike<number>): string {
      const list = Array.from(ids);
      const bad = list.find((id) => !known.has(id));
      if (bad !== undefined) {
        throw new RangeError(
          `Cannot decode tokens as ids must be in the vocabulary (below ${vocabSize}): current value is ${bad}`,
        );
      }
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
 * @throws {CheckpointError} If the file cannot be read, or is not what {@linkcode tokenizerFromJson} needs.
 */
export async function loadTokenizer(path: string | URL, options: TokenizerOptions = {}): Promise<Tokenizer> {
  let json: unknown;
  try {
    json = await readJson(path);
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

/** The text of a token in `tokenizer_config.json`: itself, or in an object. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** GPT-2's two files as a `tokenizer.json` would have them. */
function fromVocabulary(vocab: unknown, merges: string, special: readonly string[]): unknown {
  const entries = vocab as Record<string, number>;
  return {
    version: "1.0",
    added_tokens: special.map((content) => ({
      id: entries[content],
      content,
      special: true,
      normalized: false,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      vocab,
      merges: merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version")),
    },
  };
}

/** The token that `tokenizer_config.json` asks to put before a text, if it does. */
function configuredBos(config: Record<string, unknown>, name: string): string | undefined {
  if (config.add_bos_token !== true) return undefined;
  const token = tokenText(config.bos_token);
  if (token === undefined) {
    throw new CheckpointError(
      `Cannot use ${name} as "bos_token" must be a token where "add_bos_token" is true: current value is ${
        showValue(config.bos_token ?? null)
      }`,
    );
  }
  return token;
}

/**
 * Reads the tokenizer of a model folder: `tokenizer.json`, or else `vocab.json` and `merges.txt`. The token that
 * ends a text is `eos_token` of `tokenizer_config.json`, if there is such a file. The token that begins a text is
 * what the post-processor of `tokenizer.json` puts there (LLaMA), or else `bos_token` where `add_bos_token` is true
 * (OPT); many models have none (GPT-2).
 *
 * @param path Path of the folder, or of a file like `tokenizer.json`, whose name ends in `.json`.
 * @returns The tokenizer.
 * @throws {CheckpointError} If there is none, or it is not what {@linkcode tokenizerFromJson} needs.
 */
export async function loadModelTokenizer(path: string): Promise<Tokenizer> {
  const [, place, file = "tokenizer.json"] = /^(?:(.*)\/)?([^/]+\.json)$/.exec(path) ?? [];
  const folder = path.endsWith(".json") ? place ?? "." : path;
  const read = async (name: string): Promise<string | null> => {
    try {
      return await readTextWithin(`${folder}/${name}`);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      if (!(error instanceof RangeError)) throw error;
      throw new CheckpointError(`Cannot read ${folder}/${name} as ${error.message}`, { cause: error });
    }
  };
  const parse = (name: string, content: string): unknown => {
    try {
      return parseJson(content);
    } catch (cause) {
      throw new CheckpointError(
        `Cannot read ${folder}/${name} as it must be JSON: ${(cause as Error).message}`,
        { cause },
      );
    }
  };
  const content = await read("tokenizer_config.json");
  const config = (content === null ? null : parse("tokenizer_config.json", content)) ?? {};
  const eos = tokenText((config as { eos_token?: unknown }).eos_token);
  const bos = configuredBos(config as Record<string, unknown>, `${folder}/tokenizer_config.json`);
  const options = {
    name: `${folder}/${file}`,
    ...(eos === undefined ? {} : { eos }),
    ...(bos === undefined ? {} : { bos }),
  };
  const json = await read(file);
  if (json !== null) return tokenizerFromJson(parse(file, json), options);
  const [vocab, merges] = [await read("vocab.json"), await read("merges.txt")];
  if (vocab === null || merges === null) {
    throw new CheckpointError(
      `Cannot read the tokenizer: ${folder} holds neither ${file} nor vocab.json and merges.txt`,
    );
  }
  const special = new Set([eos ?? "<|endoftext|>", bos ?? []].flat());
  return tokenizerFromJson(fromVocabulary(parse("vocab.json", vocab), merges, [...special]), {
    ...options,
    name: `${folder}/vocab.json`,
  });
}
