/**
 * The tokenizer of a model folder as fields of a GGUF file. A GGUF file names the way to cut texts; what it cannot say
 * is refused, and what it says is held against the folder's own tokenizer before it is written.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { folderTemplates } from "../data/chat_template.ts";
import { sentencePieceTokenizer } from "../data/sentence_piece.ts";
import { endsOf, type Tokenizer, tokenizerFromJson } from "../data/tokenizer.ts";
import { tokenizerFilesOf } from "../data/tokenizer_folder.ts";
import type { GgufField } from "../files/gguf_writer.ts";
import { PRE_TOKENIZERS } from "./_pre_tokenizers.ts";
import { byteLevelJson, sentencePieceModel, stepsOf, TokenizerFields, TYPE } from "./gguf_tokenizer.ts";

type Json = Readonly<Record<string, unknown>>;
type Fields = Record<string, GgufField>;

/** A token that is matched whole. */
interface Added {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  readonly [field: string]: unknown;
}

/** A folder's tokenizer, taken apart. */
interface Parts {
  readonly json: Json;
  readonly model: Json;
  readonly added: readonly Added[];
  readonly tokenizer: Tokenizer;
  readonly refuse: (rule: string, value: unknown) => never;
}

/** What is written and read back in the check: letters, numbers, spaces, line breaks, marks, other scripts. */
const SAMPLES = [
  "Hello world, isn't it? I'VE 1234567 reasons; you'll see.",
  "  two spaces,\ttabs\t and\n\n\nlines\r\nends  ",
  "123 4 5.678 \u00bd \u00b23 \u0663\u0664\u0665 \u216b 1,000,000 0x1F",
  "na\u00efve caf\u00e9, \u00dcnd CamelCaseXMLParser e\u0308 a\u0301",
  "\u6211\u5728\u6cb3\u8fb9\u3002 \u3072\u3089\u304c\u306a \u30ab\u30ca \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940",
  "\ud83c\udf72\ud83d\udc69\u200d\ud83d\udc67 ok\ud83d\ude42! x\u00a0y\u3000z",
  "def f(x):\n    return x**2 + foo_bar[0]  # end\n\n\tif x != 'a':\n",
  "https://example.org/a?b=c&d=%20#e user@example.org <tag/> {json: [1, 2]}",
  "...!!!\n\n???--- $5.00 +1 =2 ^3 ~4 |5 `6`",
];

/**
 * The tokenizer and the chat templates of a model folder, as a GGUF file has them.
 *
 * @param folder The folder, or a `tokenizer.json`.
 * @param size Rows of the model's embedding; ids without a token become unused ones.
 * @throws {ModelFileError} If a GGUF file cannot say the same.
 */
export async function ggufTokenizerFields(folder: string, size: number): Promise<Fields> {
  const { json, options } = await tokenizerFilesOf(folder);
  const tokenizer = tokenizerFromJson(json, options);
  const name = options.name ?? folder;
  const file = json as Json;
  const refuse = (rule: string, value: unknown): never => {
    throw new ModelFileError(
      `Cannot write ${name} into a GGUF file as ${rule}: current value is ${
        showValue(value)
      }; export with --merge instead`,
    );
  };
  const model = file.model as Json;
  if (model.type !== "BPE") refuse('model.type must be "BPE"', model.type);
  const added = file.added_tokens as readonly Added[];
  const odd = added.find(({ lstrip, rstrip, single_word: alone }) => [lstrip, rstrip, alone].includes(true));
  if (odd !== undefined) refuse("added tokens must not take the spaces around them", odd.content);
  const parts = { json: file, model, added, tokenizer, refuse };
  const isPieces = model.byte_fallback === true;
  const { texts, types } = tokensOf(parts, { size, isPieces });
  const [, ...further] = endsOf(tokenizer);
  const fields: Fields = {
    "ggml.tokens": { type: "strings", value: texts },
    "ggml.token_type": { type: "i32s", value: types },
    ...(isPieces ? pieceFields(parts, texts) : byteFields(parts)),
    "ggml.eos_token_id": { type: "u32", value: tokenizer.eos },
    "ggml.add_bos_token": { type: "bool", value: tokenizer.bos !== null },
    ...(tokenizer.bos === null ? {} : { "ggml.bos_token_id": { type: "u32", value: tokenizer.bos } }),
    ...(further.length === 0 ? {} : { "ggml.eot_token_id": { type: "u32", value: further[0]! } }),
  };
  const place = folder.endsWith(".json") ? folder.replace(/\/?[^/]*$/, "") || "." : folder;
  for (const [key, source] of await folderTemplates(place)) {
    fields[key === "default" ? "chat_template" : `chat_template.${key}`] = { type: "string", value: source };
  }
  const named = Object.fromEntries(
    Object.entries(fields).map(([key, field]) => [`tokenizer.${key}`, field] as const),
  );
  requireSame(named, { tokenizer, isPieces, refuse, name });
  return named;
}

/** Tokens by id and their types. */
function tokensOf(
  { model, added, refuse }: Parts,
  { size, isPieces }: { readonly size: number; readonly isPieces: boolean },
): { readonly texts: string[]; readonly types: number[] } {
  const texts = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(size).fill(TYPE.unused);
  const entries = Object.entries(model.vocab as Readonly<Record<string, number>>);
  const put = (id: number, text: string, type: number) => {
    // Special tokens that nobody trained may have no row.
    if (id < size) [texts[id], types[id]] = [text, type];
    else if (type !== TYPE.control) refuse(`ids must be below the model's vocabulary, ${size}`, id);
  };
  for (const [text, id] of entries) {
    const isByte = isPieces && /^<0x[0-9A-F]{2}>$/.test(text);
    put(id, text, isByte ? TYPE.byte : text === model.unk_token ? TYPE.unknown : TYPE.normal);
  }
  for (const { id, content, special = false } of added) {
    const isUnknown = isPieces && content === model.unk_token;
    put(id, content, isUnknown ? TYPE.unknown : special ? TYPE.control : TYPE.userDefined);
  }
  return { texts, types };
}

/** Steps in one form, whichever of several ways a file writes them. */
function plainSteps(step: unknown): readonly Json[] {
  if (typeof step !== "object" || step === null) return [];
  const { type, pretokenizers, individual_digits: single, pattern, behavior, invert } = step as Json;
  if (type === "Sequence") return (pretokenizers as readonly unknown[]).flatMap(plainSteps);
  if (type === "Digits" && single === true) return [{ type: "Split", regex: "\\p{N}" }];
  if (type === "Split" && behavior === "Isolated" && invert !== true) {
    return [{ type, regex: (pattern as Json | undefined)?.Regex }];
  }
  if (type !== "ByteLevel") return [step as Json];
  const { add_prefix_space: spaceFirst = true, use_regex: regex = true } = step as Json;
  return [{ type, spaceFirst, regex }];
}

function byteFields({ json, model, refuse }: Parts): Fields {
  const { normalizer } = json;
  const composes = (normalizer as Json | null)?.type === "NFC";
  if (normalizer !== null && normalizer !== undefined && !composes) {
    refuse("normalizer must be NFC or none", normalizer);
  }
  const steps = JSON.stringify(plainSteps(json.pre_tokenizer));
  const wordsFirst = model.ignore_merges === true;
  const [pre] =
    PRE_TOKENIZERS.entries().find(([, known]) =>
      (known.composes ?? false) === composes && (known.wordsFirst ?? false) === wordsFirst &&
      JSON.stringify(plainSteps(stepsOf(known))) === steps
    ) ?? refuse("its way to cut texts must be one that GGUF files have a name for", json.pre_tokenizer);
  const merges = (model.merges as readonly (string | readonly string[])[])
    .map((merge) => typeof merge === "string" ? merge : merge.join(" "));
  return {
    "ggml.model": { type: "string", value: "gpt2" },
    "ggml.pre": { type: "string", value: pre },
    "ggml.merges": { type: "strings", value: merges },
  };
}

const SPACE = "\u2581";

/** The scores of SentencePiece, of which merges keep the order: the token that is made first has the best one. */
function pieceFields({ json, model, refuse }: Parts, texts: readonly string[]): Fields {
  const ranks = new Map<string, number>();
  let last = "";
  for (const [rank, merge] of (model.merges as readonly (string | readonly string[])[]).entries()) {
    const made = typeof merge === "string" ? merge.replace(" ", "") : merge.join("");
    if (made !== last && ranks.has(made)) refuse("merges that make one token must follow each other", made);
    if (made !== last) ranks.set(made, rank);
    last = made;
  }
  const written = JSON.stringify([json.normalizer ?? null, json.pre_tokenizer ?? null]);
  if (!written.includes(SPACE)) refuse(`spaces must be written as ${SPACE}`, json.normalizer);
  const spaceFirst = /"Prepend"|"prepend_scheme":"(always|first)"|"add_prefix_space":true/.test(written);
  const lowest = -ranks.size - 1;
  const unknown = texts.indexOf(String(model.unk_token));
  return {
    "ggml.model": { type: "string", value: "llama" },
    "ggml.scores": {
      type: "f32s",
      value: texts.map((text) => ranks.has(text) ? -ranks.get(text)! : lowest),
    },
    "ggml.add_space_prefix": { type: "bool", value: spaceFirst },
    ...(unknown < 0 ? {} : { "ggml.unknown_token_id": { type: "u32", value: unknown } }),
  };
}

/** @throws {ModelFileError} If what a reader makes of the fields cuts a sample otherwise. */
function requireSame(
  fields: Readonly<Record<string, GgufField>>,
  { tokenizer, isPieces, refuse, name }: Pick<Parts, "tokenizer" | "refuse"> & {
    readonly isPieces: boolean;
    readonly name: string;
  },
): void {
  const values = Object.fromEntries(Object.entries(fields).map(([key, { value }]) => [key, value]));
  const read = new TokenizerFields(values, name);
  const again = isPieces
    ? sentencePieceTokenizer(sentencePieceModel(read, name))
    : tokenizerFromJson(byteLevelJson(read).json, { eos: byteLevelJson(read).eos, name });
  for (const text of SAMPLES) {
    const [own, found] = [tokenizer.encode(text), again.encode(text)];
    if (own.join() !== found.join()) refuse("its tokens must be those that llama.cpp would find", text);
  }
}
