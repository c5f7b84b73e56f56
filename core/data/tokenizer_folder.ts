/**
 * Tokenizers of model folders: all files count that say what a token is, or what ends a text.
 *
 * @module
 */

import { bytesIfThere } from "../files/folders.ts";
import { isMissing } from "../files/missing.ts";
import { ModelFileError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { makeFolder, writeWhole } from "../files/atomic.ts";
import { parseJson, readTextWithin } from "../files/json_file.ts";
import { TEMPLATE_FOLDER, templateNames } from "./chat_template.ts";
import { type Tokenizer, tokenizerFromJson, type TokenizerOptions } from "./tokenizer.ts";

/**
 * Files of a model folder beside `config.json` and the weights, which belong to the model wherever it goes:
 * tokenizer, chat templates (also those in `additional_chat_templates/`), and what ends a text.
 */
export const TOKENIZER_FILES: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "vocab.json",
  "merges.txt",
  "added_tokens.json",
  "special_tokens_map.json",
  "tokenizer.model",
  "chat_template.jinja",
  "chat_template.json",
];

/** Fields of special tokens, in the order in which transformers adds those that the vocabulary lacks. */
const SPECIAL = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const FURTHER = ["additional_special_tokens", "extra_special_tokens"];

type Fields = Readonly<Record<string, unknown>>;

/** A token that is matched whole. */
interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly normalized: boolean;
  readonly [field: string]: unknown;
}

/** The text of a token in `tokenizer_config.json`: itself, or in an object. */
export function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** Reads the files of a folder; those that are not there are `null`. */
class Folder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async text(name: string): Promise<string | null> {
    try {
      return await readTextWithin(`${this.path}/${name}`);
    } catch (error) {
      if (isMissing(error)) return null;
      if (!(error instanceof RangeError)) throw error;
      throw new ModelFileError(`Cannot read ${this.path}/${name} as ${error.message}`, { cause: error });
    }
  }

  async json(name: string): Promise<unknown> {
    const content = await this.text(name);
    if (content === null) return null;
    try {
      return parseJson(content);
    } catch (cause) {
      throw new ModelFileError(
        `Cannot read ${this.path}/${name} as it must be JSON: ${(cause as Error).message}`,
        { cause },
      );
    }
  }

  async fields(name: string): Promise<Fields> {
    const value = await this.json(name);
    if (value === null) return {};
    if (typeof value === "object" && !Array.isArray(value)) return value as Fields;
    throw new ModelFileError(
      `Cannot read ${this.path}/${name} as it must be an object: current value is ${showValue(value)}`,
    );
  }
}

/**
 * The tokens that end a text by `generation_config.json` and `config.json` of a model folder: `eos_token_id`, a
 * number or a list of them.
 *
 * @param path The folder.
 * @returns Their ids; none if neither file names one.
 * @throws {ModelFileError} If a file cannot be read, or names something else.
 */
export async function endsOfModel(path: string): Promise<number[]> {
  const folder = new Folder(path);
  const ends: number[] = [];
  for (const name of ["generation_config.json", "config.json"]) {
    const { eos_token_id: value } = await folder.fields(name);
    const list = Array.isArray(value) ? value : [value ?? []].flat();
    for (const id of list) {
      // Some files write -1 for "none".
      if (id === -1) continue;
      if (!Number.isInteger(id) || id < 0) {
        throw new ModelFileError(
          `Cannot use ${path}/${name} as "eos_token_id" must be a token's id or a list of them: current value is ${
            showValue(value)
          }`,
        );
      }
      ends.push(id);
    }
  }
  return [...new Set(ends)];
}

/**
 * Copies what goes with a model wherever it goes: tokenizer, chat templates, what ends a text.
 *
 * @param from Folder of the model.
 * @param to Another folder.
 * @throws {SaveError} If a file cannot be written.
 */
export async function copyTokenizerFiles(from: string, to: string): Promise<void> {
  const names = [...TOKENIZER_FILES, ...await templateNames(from)];
  if (names.length > TOKENIZER_FILES.length) {
    await makeFolder(`${to}/${TEMPLATE_FOLDER}`);
  }
  for (const name of names) {
    const content = await bytesIfThere(`${from}/${name}`);
    if (content !== null) await writeWhole(`${to}/${name}`, content);
  }
}

/** GPT-2's two files as a `tokenizer.json` would have them. */
function fromVocabulary(vocab: unknown, merges: string): Fields {
  const byteLevel = { type: "ByteLevel", trim_offsets: true, use_regex: true };
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { ...byteLevel, add_prefix_space: false },
    post_processor: null,
    decoder: { ...byteLevel, add_prefix_space: true },
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

/** GPT-2's own class puts a space before texts where the configuration says so, whatever the file has. */
function withPrefixSpace(json: Fields, config: Fields, { isOwn }: { readonly isOwn: boolean }): Fields {
  const { add_prefix_space: isPut, tokenizer_class: kind } = config;
  if (typeof isPut !== "boolean" || !(isOwn || /^GPT2Tokenizer(Fast)?$/.test(String(kind)))) return json;
  const step = json.pre_tokenizer as Fields | null;
  if (step?.type !== "ByteLevel") return json;
  return { ...json, pre_tokenizer: { ...step, add_prefix_space: isPut } };
}

/** What the files beside a `tokenizer.json` say of tokens. */
interface Notes {
  readonly config: Fields;
  readonly map: Fields;
  readonly added: Fields;
}

/** Tokens of the other files that a `tokenizer.json` has not as its own. */
function furtherTokens(json: Fields, { config, map, added }: Notes, name: string): AddedToken[] {
  const own = Array.isArray(json.added_tokens) ? json.added_tokens as Fields[] : [];
  const ids = new Map<string, number>();
  for (const [token, id] of vocabularyOf(json.model as Fields | undefined)) ids.set(token, id);
  for (const { content, id } of own) ids.set(String(content), Number(id));
  const whole = new Set(own.map(({ content }) => content));
  let size = Iterator.from(ids.values()).reduce((most, id) => Math.max(most, id + 1), 0);
  const tokens: AddedToken[] = [];
  const fields: Fields = { ...config, ...map };
  const [bos, eos] = [fields.bos_token, fields.eos_token].map(tokenText);
  const add = (content: string, id: number | undefined, fields: Fields): void => {
    if (whole.has(content) || content === "") return;
    whole.add(content);
    const known = ids.get(content);
    if (known !== undefined && id !== undefined && known !== id) {
      throw new ModelFileError(
        `Cannot use ${name} as each token must have one id: current ids of ${
          showValue(content)
        } are ${known} and ${id}`,
      );
    }
    // What begins and ends texts must be in the vocabulary, which is looked at later.
    if (known === undefined && id === undefined && [bos, eos].includes(content)) return;
    const place = known ?? id ?? size;
    size = Math.max(size, place + 1);
    tokens.push({ special: true, normalized: false, ...fields, id: place, content });
  };
  const listed = config.added_tokens_decoder;
  if (typeof listed === "object" && listed !== null) {
    for (const [id, token] of Object.entries(listed as Fields)) {
      const content = tokenText(token);
      if (content !== undefined) add(content, Number(id), typeof token === "object" ? token as Fields : {});
    }
  } else {
    const byId = Object.entries(added).toSorted(([, a], [, b]) => Number(a) - Number(b));
    for (const [content, id] of byId) add(content, Number(id), {});
  }
  for (
    const token of SPECIAL.map((field) => fields[field]).concat(
      FURTHER.flatMap((field) => fields[field] ?? []),
    )
  ) {
    const content = tokenText(token);
    if (content !== undefined) add(content, undefined, typeof token === "object" ? token as Fields : {});
  }
  return tokens;
}

/** Tokens of a model's vocabulary with their ids; only what has the right form. */
function* vocabularyOf(model: Fields | undefined): Generator<[string, number]> {
  const vocab = model?.vocab;
  if (Array.isArray(vocab)) {
    for (const [id, item] of vocab.entries()) yield [String(Array.isArray(item) ? item[0] : item), id];
  } else if (typeof vocab === "object" && vocab !== null) {
    for (const [token, id] of Object.entries(vocab)) if (typeof id === "number") yield [token, id];
  }
}

/** The token that `tokenizer_config.json` asks to put before a text, if it does. */
function configuredBos(config: Fields, name: string): string | undefined {
  if (config.add_bos_token !== true) return undefined;
  const token = tokenText(config.bos_token);
  if (token === undefined) {
    throw new ModelFileError(
      `Cannot use ${name} as "bos_token" must be a token where "add_bos_token" is true: current value is ${
        showValue(config.bos_token ?? null)
      }`,
    );
  }
  return token;
}

/**
 * Reads the tokenizer of a model folder: `tokenizer.json`, or else `vocab.json` and `merges.txt`, with the tokens of
 * `added_tokens.json`, `special_tokens_map.json` and `tokenizer_config.json`. The token that ends a text is
 * `eos_token` there; what `generation_config.json` and `config.json` name ends texts too. The token that begins a
 * text is what the post-processor of `tokenizer.json` puts there (LLaMA), or else `bos_token` where
 * `add_bos_token` is true (OPT); many models have none (GPT-2).
 *
 * @param path Path of the folder, or of a file like `tokenizer.json`, whose name ends in `.json`.
 * @returns The tokenizer.
 * @throws {ModelFileError} If there is none, or it is not what {@linkcode tokenizerFromJson} needs.
 */
export async function loadModelTokenizer(path: string): Promise<Tokenizer> {
  const { json, options } = await tokenizerFilesOf(path);
  return tokenizerFromJson(json, options);
}

/** What a model folder says of its tokenizer, all files together. */
export interface FolderTokenizer {
  /** As one `tokenizer.json`. */
  readonly json: unknown;
  /** Names of special tokens. */
  readonly options: TokenizerOptions;
}

/**
 * As `loadModelTokenizer`: what the tokenizer is made from.
 *
 * @throws {ModelFileError} If a file cannot be read.
 */
export async function tokenizerFilesOf(path: string): Promise<FolderTokenizer> {
  const [, place, file = "tokenizer.json"] = /^(?:(.*)\/)?([^/]+\.json)$/.exec(path) ?? [];
  const folder = new Folder(path.endsWith(".json") ? place ?? "." : path);
  const config = await folder.fields("tokenizer_config.json");
  // The older files say no more where the configuration lists all added tokens.
  const isListed = typeof config.added_tokens_decoder === "object" && config.added_tokens_decoder !== null;
  const map = isListed ? {} : await folder.fields("special_tokens_map.json");
  const added = isListed ? {} : await folder.fields("added_tokens.json");
  const bos = configuredBos({ ...config, ...map }, `${folder.path}/tokenizer_config.json`);
  const found = await jsonOf(folder, file);
  const isOwn = found.name !== file;
  const content = withPrefixSpace(found.json as Fields, config, { isOwn });
  const name = `${folder.path}/${found.name}`;
  if (typeof content !== "object" || content === null) return { json: content, options: { name } };
  const eos = tokenText(map.eos_token) ?? tokenText(config.eos_token);
  // GPT-2's class has this one unless the configuration names another.
  const named = isOwn ? { eos_token: "<|endoftext|>", ...config } : config;
  const further = furtherTokens(content, { config: named, map, added }, name);
  const own = content.added_tokens;
  const all = further.length === 0 || !Array.isArray(own) ? own : [...own, ...further];
  const options = {
    name,
    ends: await endsOfModel(folder.path),
    ...(eos === undefined ? {} : { eos }),
    ...(bos === undefined ? {} : { bos }),
  };
  return { json: { ...content, added_tokens: all }, options };
}

async function jsonOf(
  folder: Folder,
  file: string,
): Promise<{ readonly json: unknown; readonly name: string }> {
  const content = await folder.text(file);
  if (content !== null) return { json: await folder.json(file), name: file };
  const [vocab, merges] = [await folder.json("vocab.json"), await folder.text("merges.txt")];
  if (vocab === null || merges === null) {
    throw new ModelFileError(
      `Cannot read the tokenizer: ${folder.path} holds neither ${file} nor vocab.json and merges.txt`,
    );
  }
  return { json: fromVocabulary(vocab, merges), name: "vocab.json" };
}
