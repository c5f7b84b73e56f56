/**
 * Tokenizers and chat templates that GGUF files bring along: byte-level BPE, and SentencePiece.
 *
 * @module
 */

import { type ChatTemplate, chatTemplateFromConfig } from "../data/chat_template.ts";
import { type PieceKind, type SentencePieceModel, sentencePieceTokenizer } from "../data/sentence_piece.ts";
import { type Tokenizer, tokenizerFromJson } from "../data/tokenizer.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { GgufFile } from "../files/gguf.ts";
import { PRE_TOKENIZERS, type PreTokenizer } from "./_pre_tokenizers.ts";

/** Types of tokens, by the numbers of the file. */
export const TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
/** Types of tokens that are matched whole. */
const WHOLE: readonly number[] = [TYPE.unknown, TYPE.control, TYPE.userDefined];
/** Control tokens that end a turn, of models whose files do not say so. */
const TURN_ENDS = new Set([
  ...[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
  ],
  ...["<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"],
]);

/** What a file says of its tokenizer. */
export class TokenizerFields {
  readonly #metadata: Readonly<Record<string, unknown>>;
  readonly #path: string;

  constructor(metadata: Readonly<Record<string, unknown>>, path: string) {
    this.#metadata = metadata;
    this.#path = path;
  }

  field(name: string): unknown {
    return this.#metadata[`tokenizer.ggml.${name}`];
  }

  refuse(rule: string, value: unknown): never {
    throw new ModelFileError(
      `Cannot use the tokenizer in ${this.#path} as ${rule}: current value is ${
        showValue(value)
      }; give the model's tokenizer.json instead, beside the file or by name (--tokenizer)`,
    );
  }

  list(name: string): readonly unknown[] {
    const value = this.field(name);
    return Array.isArray(value) ? value : this.refuse(`tokenizer.ggml.${name} must be a list`, value);
  }

  /** Types of tokens by id; none if the file does not say them. */
  types(): readonly number[] {
    return this.field("token_type") === undefined ? [] : this.list("token_type").map(Number);
  }

  /** True or false; `undefined` if the file does not say. */
  flag(name: string): boolean | undefined {
    const value = this.field(name) ?? undefined;
    return value === undefined || typeof value === "boolean"
      ? value
      : this.refuse(`tokenizer.ggml.${name} must be true or false`, value);
  }

  /** A token's id; `null` if the file names none. */
  id(name: string, tokens: readonly string[], fallback: number | null = null): number | null {
    const value = this.field(`${name}_token_id`) ?? fallback;
    if (value === null) return null;
    return tokens[Number(value)] === undefined
      ? this.refuse(`tokenizer.ggml.${name}_token_id must be a token`, value)
      : Number(value);
  }

  /** The token that begins texts. */
  bos(
    tokens: readonly string[],
    { isUsual, fallback = null }: { readonly isUsual: boolean; readonly fallback?: number | null },
  ): number | null {
    if (!(this.flag("add_bos_token") ?? isUsual)) return null;
    const value = this.field("bos_token_id") ?? fallback;
    return value === null || tokens[Number(value)] === undefined
      ? this.refuse("tokenizer.ggml.bos_token_id must be a token where add_bos_token is true", value)
      : Number(value);
  }
}

/**
 * Reads the tokenizer of a GGUF file.
 *
 * @param path The file.
 * @throws {ModelFileError} If it has none, or none that can be read here; the message says what to give instead.
 */
export async function loadGgufTokenizer(path: string): Promise<Tokenizer> {
  const { metadata } = await GgufFile.open(path);
  const fields = new TokenizerFields(metadata, path);
  const model = fields.field("model");
  if (model === "gpt2") return byteLevel(fields, path);
  if (model === "llama") return sentencePiece(fields, path);
  return fields.refuse(
    'tokenizer.ggml.model must be "gpt2" (byte-level BPE) or "llama" (SentencePiece)',
    model,
  );
}

/** All tokens that end a text but the first one, and the types of all tokens. */
function endsAndTypes(fields: TokenizerFields, tokens: readonly string[]) {
  const types = fields.types();
  const named = ["eot", "eom"].map((name) => fields.id(name, tokens)).filter((id) => id !== null);
  const usual = tokens.keys().filter((id) => types[id] === TYPE.control && TURN_ENDS.has(tokens[id]!));
  return { types, ends: [...named, ...usual] };
}

/** A tokenizer as a `tokenizer.json` has it, and what else is known of it. */
export interface TokenizerJson {
  readonly json: Readonly<Record<string, unknown>>;
  readonly eos: string;
  readonly bos: string | null;
  /** Further tokens that end a text. */
  readonly ends: readonly number[];
}

function byteLevel(fields: TokenizerFields, path: string): Tokenizer {
  const { json, eos, bos, ends } = byteLevelJson(fields);
  return tokenizerFromJson(json, { eos, ends, ...(bos === null ? {} : { bos }), name: path });
}

/**
 * A byte-level tokenizer as a `tokenizer.json` has it.
 *
 * @throws {ModelFileError} If its way to cut texts is not known.
 */
export function byteLevelJson(fields: TokenizerFields): TokenizerJson {
  const pre = PRE_TOKENIZERS.get(String(fields.field("pre")));
  if (pre === undefined) {
    const known = [...PRE_TOKENIZERS.keys()].join(", ");
    return fields.refuse(`tokenizer.ggml.pre must be one of ${known}`, fields.field("pre"));
  }
  const tokens = fields.list("tokens").map(String);
  const { types, ends } = endsAndTypes(fields, tokens);
  const eos = fields.id("eos", tokens) ??
    fields.refuse("tokenizer.ggml.eos_token_id must be a token", undefined);
  const bos = fields.bos(tokens, { isUsual: pre.bos ?? false });
  const whole = tokens.keys().filter((id) => id === eos || id === bos || WHOLE.includes(types[id] ?? 1));
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(Array.from(whole), tokens, types),
    normalizer: pre.composes ? { type: "NFC" } : null,
    pre_tokenizer: stepsOf(pre),
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      ignore_merges: pre.wordsFirst ?? false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: fields.list("merges").map((merge) => pairOf(String(merge))),
    },
  };
  return { json, eos: tokens[eos]!, bos: bos === null ? null : tokens[bos]!, ends };
}

/** Tokens that are matched whole, as a `tokenizer.json` lists them. */
export function addedTokens(ids: readonly number[], tokens: readonly string[], types: readonly number[]) {
  return ids.filter((id) => tokens[id] !== "").map((id) => ({
    id,
    content: tokens[id]!,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: types[id] !== TYPE.userDefined,
  }));
}

/** The two sides of a merge; the first of them may begin with a space, as written. */
function pairOf(merge: string): [string, string] {
  const at = merge.indexOf(" ", 1);
  return at < 0 ? [merge, ""] : [merge.slice(0, at), merge.slice(at + 1)];
}

/** The steps of a way to cut, as a `tokenizer.json` has them. */
export function stepsOf({ patterns, thenGpt2 = false }: PreTokenizer): unknown {
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  if (patterns === undefined) return { ...bytes, use_regex: true };
  const splits = patterns.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  return { type: "Sequence", pretokenizers: [...splits, { ...bytes, use_regex: thenGpt2 }] };
}

/** LLaMA's own tokens, of files that do not name them. */
const LLAMA_IDS = { unknown: 0, bos: 1, eos: 2 };

function sentencePiece(fields: TokenizerFields, path: string): Tokenizer {
  return sentencePieceTokenizer(sentencePieceModel(fields, path));
}

/**
 * A SentencePiece model.
 *
 * @throws {ModelFileError} If it asks for what is not done here.
 */
export function sentencePieceModel(fields: TokenizerFields, path: string): SentencePieceModel {
  const tokens = fields.list("tokens").map(String);
  const { types, ends } = endsAndTypes(fields, tokens);
  if (fields.flag("remove_extra_whitespaces")) {
    fields.refuse("tokenizer.ggml.remove_extra_whitespaces must be false", true);
  }
  const kindOf = (type: number): PieceKind =>
    WHOLE.includes(type)
      ? "whole"
      : type === TYPE.byte
      ? "byte"
      : type === TYPE.unused
      ? "unused"
      : "ordinary";
  return {
    tokens,
    scores: fields.list("scores").map(Number),
    kinds: tokens.map((_, id) => kindOf(types[id] ?? 1)),
    unknown: fields.id("unknown", tokens, LLAMA_IDS.unknown) ?? undefined,
    spaceFirst: fields.flag("add_space_prefix") ?? true,
    eos: fields.id("eos", tokens, LLAMA_IDS.eos)!,
    bos: fields.bos(tokens, { isUsual: true, fallback: LLAMA_IDS.bos }),
    ends,
    name: path,
  };
}

/**
 * Reads the chat template of a GGUF file.
 *
 * @param path The file.
 * @param now What counts as now where the template writes the date. @default {the time of rendering}
 * @returns The template; `null` if it has none.
 * @throws {ModelFileError} If the file cannot be read, or has a template that is not valid.
 */
export async function loadGgufChatTemplate(path: string, now?: Date): Promise<ChatTemplate | null> {
  const { metadata } = await GgufFile.open(path);
  const templates = ggufTemplates(metadata);
  if (templates.length === 0) return null;
  return chatTemplateFromConfig({ ...specialTexts(metadata), chat_template: templates }, {
    name: `${path}, tokenizer.chat_template`,
    ...(now === undefined ? {} : { now }),
  });
}

type Metadata = Readonly<Record<string, unknown>>;

/** The chat templates of a file, the default first; none without one. */
export function ggufTemplates(
  metadata: Metadata,
): readonly { readonly name: string; readonly template: unknown }[] {
  const main = metadata["tokenizer.chat_template"];
  if (main === undefined) return [];
  const further = Object.entries(metadata).flatMap(([key, template]) => {
    const [, name] = /^tokenizer\.chat_template\.(.+)$/.exec(key) ?? [];
    return name === undefined ? [] : [{ name, template }];
  });
  return [{ name: "default", template: main }, ...further];
}

/** Special tokens by their names in a `tokenizer_config.json`. */
export function specialTexts(metadata: Metadata): Readonly<Record<string, string>> {
  const tokens = metadata["tokenizer.ggml.tokens"];
  const special = ["bos", "eos", "unk", "pad"].flatMap((name) => {
    const key = { unk: "unknown", pad: "padding" }[name] ?? name;
    const id = metadata[`tokenizer.ggml.${key}_token_id`];
    const text = Array.isArray(tokens) && id !== undefined ? tokens[Number(id)] : undefined;
    return typeof text === "string" ? [[`${name}_token`, text]] : [];
  });
  return Object.fromEntries(special);
}
