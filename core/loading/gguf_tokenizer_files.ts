/**
 * The tokenizer of a GGUF file as the files of a model folder: for programs that read no GGUF.
 *
 * @module
 */

import type { SentencePieceModel } from "../data/sentence_piece.ts";
import { tokenizerFromJson } from "../data/tokenizer.ts";
import { GgufFile } from "../files/gguf.ts";
import {
  addedTokens,
  byteLevelJson,
  ggufTemplates,
  sentencePieceModel,
  specialTexts,
  TokenizerFields,
  type TokenizerJson,
} from "./gguf_tokenizer.ts";

/** Contents of the files, by name. */
export interface TokenizerFiles {
  /** Each is written as JSON. */
  readonly files: ReadonlyMap<string, unknown>;
  /** The token that ends a text. */
  readonly eos: number;
  /** The token that begins a text, if there is one. */
  readonly bos: number | null;
}

/**
 * The tokenizer and the chat templates of a GGUF file as `tokenizer.json`, `tokenizer_config.json` and
 * `generation_config.json`.
 *
 * @param path The file.
 * @throws {ModelFileError} As `loadGgufTokenizer`.
 */
export async function ggufTokenizerFiles(path: string): Promise<TokenizerFiles> {
  const { metadata } = await GgufFile.open(path);
  const fields = new TokenizerFields(metadata, path);
  const model = fields.field("model");
  const { json, eos, bos, ends } = model === "gpt2"
    ? byteLevelJson(fields)
    : model === "llama"
    ? pieceJson(sentencePieceModel(fields, path), fields.types())
    : fields.refuse(
      'tokenizer.ggml.model must be "gpt2" (byte-level BPE) or "llama" (SentencePiece)',
      model,
    );
  const tokenizer = { ...json, post_processor: bos === null ? null : putsFirst(bos, idOf(json, bos)) };
  // As this project reads them, too: what cannot be read is an error here and now.
  const read = tokenizerFromJson(tokenizer, { eos, ends, name: path });
  const templates = ggufTemplates(metadata);
  const config = {
    ...specialTexts(metadata),
    ...{ eos_token: eos, ...(bos === null ? {} : { bos_token: bos }) },
    ...{ tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false },
    ...(templates.length === 0
      ? {}
      : { chat_template: templates.length === 1 ? templates[0]!.template : templates }),
  };
  const begins = read.bos === null ? {} : { bos_token_id: read.bos };
  return {
    files: new Map<string, unknown>([
      ["tokenizer.json", tokenizer],
      ["tokenizer_config.json", config],
      ["generation_config.json", { ...begins, eos_token_id: read.ends ?? [read.eos] }],
    ]),
    eos: read.eos,
    bos: read.bos,
  };
}

function idOf(json: TokenizerJson["json"], token: string): number {
  return (json.model as { vocab: Readonly<Record<string, number>> }).vocab[token]!;
}

/** The step that puts a token before a text. */
function putsFirst(token: string, id: number): unknown {
  const [first, a, b] = [
    { SpecialToken: { id: token, type_id: 0 } },
    ...["A", "B"].map((id) => ({ Sequence: { id, type_id: id === "A" ? 0 : 1 } })),
  ];
  return {
    type: "TemplateProcessing",
    single: [first, a],
    pair: [first, a, { SpecialToken: { id: token, type_id: 1 } }, b],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  };
}

const SPACE = "\u2581";

/**
 * SentencePiece's byte-pair encoding as merges: each way to cut a token into two tokens, in the order of the tokens'
 * scores.
 */
function pieceJson(model: SentencePieceModel, types: readonly number[]): TokenizerJson {
  const { tokens, scores, kinds, unknown, spaceFirst, eos, bos, ends = [] } = model;
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges = tokens.flatMap((token, id) => {
    if (ids.get(token) !== id) return [];
    const characters = Array.from(token);
    return characters.slice(1).flatMap((_, i) => {
      const [left, right] = [characters.slice(0, i + 1).join(""), characters.slice(i + 1).join("")];
      return ids.has(left) && ids.has(right) ? [{ score: scores[id]!, left, right }] : [];
    });
  }).toSorted((a, b) => b.score - a.score);
  const whole = tokens.keys().filter((id) => kinds[id] === "whole" && id !== unknown);
  const spaces = { type: "Replace", pattern: { String: " " }, content: SPACE };
  const steps = [
    { type: "Replace", pattern: { String: SPACE }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
    ...(spaceFirst ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
  ];
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens([...(unknown === undefined ? [] : [unknown]), ...whole], tokens, types),
    normalizer: spaceFirst
      ? { type: "Sequence", normalizers: [{ type: "Prepend", prepend: SPACE }, spaces] }
      : spaces,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: "Sequence", decoders: steps },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: unknown === undefined ? null : tokens[unknown]!,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(ids),
      merges: merges.map(({ left, right }) => [left, right]),
    },
  };
  return { json, eos: tokens[eos]!, bos: bos === null ? null : tokens[bos]!, ends };
}
