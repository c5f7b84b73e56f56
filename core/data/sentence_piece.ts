/**
 * SentencePiece's byte-pair encoding by scores, as LLaMA 2 and Gemma have it, from nothing but its tokens and scores:
 * of all neighbours that are a token together, those with the best score are joined first.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { knownIds, type Places, placesBy } from "./_token_places.ts";
import { Heap, TokenSplitter } from "./_merge_queue.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** What a token is. */
export type PieceKind = "ordinary" | "whole" | "byte" | "unused";

/** A SentencePiece model. */
export interface SentencePieceModel {
  /** Tokens by id; a space is written as U+2581. */
  readonly tokens: readonly string[];
  /** Score of each token. */
  readonly scores: readonly number[];
  /** What each token is. Whole ones are found in texts before anything else, and written as they are. */
  readonly kinds: readonly PieceKind[];
  /** The token for what has no other. @default {none: it is left out} */
  readonly unknown?: number | undefined;
  /** True if a space is put before texts, and before what follows a whole token. */
  readonly spaceFirst: boolean;
  /** Token that ends a text. */
  readonly eos: number;
  /** Token that begins a text, if there is one. */
  readonly bos: number | null;
  /** Further tokens that end a text. */
  readonly ends?: readonly number[];
  /** How errors call it. @default {"the tokenizer"} */
  readonly name?: string;
}

const SPACE = "\u2581";
/** Longest token, in characters: a text may hold as many times more work. */
const MAX_TOKEN = 1024;
const utf8 = new TextEncoder();

/** A part of a word; `length` is 0 once it became part of its left neighbour. */
interface Symbol {
  readonly start: number;
  length: number;
  left: number;
  right: number;
}

/** Two neighbours that are a token together. */
interface Pair {
  readonly score: number;
  readonly left: number;
  readonly right: number;
  readonly length: number;
}

/**
 * Makes a tokenizer of a SentencePiece model.
 *
 * @param model Its tokens.
 * @returns The tokenizer.
 * @throws {ModelFileError} If tokens, scores and kinds are not equally many, a score is no number, or the token that
 * begins or ends a text is none.
 */
export function sentencePieceTokenizer(model: SentencePieceModel): Tokenizer {
  const { tokens, kinds, eos, bos, ends = [], spaceFirst, name = "the tokenizer" } = model;
  checkModel(model);
  const whole = new Map<string, number>();
  const texts = new Map<number, string>();
  tokens.forEach((token, id) => {
    texts.set(id, token);
    if (kinds[id] === "whole" && token !== "") whole.set(token, id);
  });
  const splitter = new TokenSplitter(whole.keys());
  const merge = merger(model);
  const encode = (text: string): number[] => {
    const ids: number[] = [];
    let isFirst = true;
    for (const part of splitter.split(text)) {
      const id = whole.get(part);
      if (id !== undefined) ids.push(id);
      else merge(`${isFirst && spaceFirst ? SPACE : ""}${part.replaceAll(" ", SPACE)}`, ids);
      isFirst = id !== undefined;
    }
    return ids;
  };
  const special = new Set(whole.values());
  const file = { decoder: { type: "Metaspace" }, model: { unk_token: texts.get(model.unknown ?? -1) } };
  let places: Places | undefined;
  return {
    vocabSize: tokens.length,
    eos,
    bos,
    ends: [...new Set([eos, ...ends])],
    encode,
    encodeWithPlaces(text) {
      places ??= placesBy({ file, texts, special, name });
      return places(text, encode(text));
    },
    decode(ids) {
      const text = decodePieces(knownIds(ids, (id) => texts.has(id)), model);
      return spaceFirst && text.startsWith(" ") ? text.slice(1) : text;
    },
  };
}

function checkModel({ tokens, scores, kinds, eos, bos, name = "the tokenizer" }: SentencePieceModel): void {
  const refuse = (rule: string, value: unknown): never => {
    throw new ModelFileError(`Cannot use ${name} as ${rule}: current value is ${showValue(value)}`);
  };
  if (scores.length !== tokens.length) refuse(`it must have ${tokens.length} scores`, scores.length);
  if (kinds.length !== tokens.length) refuse(`it must have ${tokens.length} types of tokens`, kinds.length);
  const bad = scores.find((score) => typeof score !== "number" || Number.isNaN(score));
  if (bad !== undefined) refuse("scores must be numbers", bad);
  const long = tokens.find((token) => token.length > MAX_TOKEN);
  if (long !== undefined) refuse(`tokens must have at most ${MAX_TOKEN} characters`, long);
  if (tokens[eos] === undefined) refuse("the token that ends a text must be in the vocabulary", eos);
  if (bos !== null && tokens[bos] === undefined) {
    refuse("the token that begins a text must be in the vocabulary", bos);
  }
}

/** Cuts a word without whole tokens in it, and adds its tokens to a list. */
function merger(
  { tokens, scores, kinds, unknown }: SentencePieceModel,
): (word: string, ids: number[]) => void {
  const ids = new Map<string, number>();
  const bytes: (number | undefined)[] = [];
  let longest = 0;
  tokens.forEach((token, id) => {
    const [, hex] = kinds[id] === "byte" ? /^<0x([0-9A-F]{2})>$/.exec(token) ?? [] : [];
    if (hex !== undefined) bytes[parseInt(hex, 16)] = id;
    ids.set(token, id);
    longest = Math.max(longest, token.length);
  });
  return (word, found) => {
    const symbols: Symbol[] = [];
    let start = 0;
    for (const { length } of word) {
      symbols.push({ start, length, left: symbols.length - 1, right: symbols.length + 1 });
      start += length;
    }
    if (symbols.length === 0) return;
    symbols.at(-1)!.right = -1;
    const queue = new Heap<Pair>((a, b) => a.score > b.score || (a.score === b.score && a.left < b.left));
    const offer = (left: number, right: number): void => {
      if (left < 0 || right < 0) return;
      const { start, length: first } = symbols[left]!;
      const length = first + symbols[right]!.length;
      const id = length > longest ? undefined : ids.get(word.slice(start, start + length));
      if (id !== undefined) queue.push({ score: scores[id]!, left, right, length });
    };
    for (let i = 1; i < symbols.length; i++) offer(i - 1, i);
    for (let pair = queue.pop(); pair !== undefined; pair = queue.pop()) {
      const left = symbols[pair.left]!;
      const right = symbols[pair.right]!;
      // One of the two is part of another pair by now.
      if (left.length === 0 || right.length === 0 || left.length + right.length !== pair.length) continue;
      left.length = pair.length;
      right.length = 0;
      left.right = right.right;
      if (right.right >= 0) symbols[right.right]!.left = pair.left;
      offer(left.left, pair.left);
      offer(pair.left, left.right);
    }
    let wasUnknown = false;
    for (let i = 0; i >= 0; i = symbols[i]!.right) {
      const { start, length } = symbols[i]!;
      const text = word.slice(start, start + length);
      const id = ids.get(text);
      const parts = id === undefined ? Array.from(utf8.encode(text), (byte) => bytes[byte] ?? unknown) : [id];
      // A character without all its bytes is unknown as a whole, and so are several together.
      const isUnknown = id === undefined && parts.includes(unknown);
      if (isUnknown) parts.splice(0, Infinity, ...(wasUnknown ? [] : [unknown]));
      wasUnknown = isUnknown;
      for (const part of parts) if (part !== undefined) found.push(part);
    }
  };
}

/** The text of tokens, with the space that is put before it. */
function decodePieces(ids: readonly number[], { tokens, kinds }: SentencePieceModel): string {
  const bytes: number[] = [];
  let text = "";
  const flush = (): void => {
    if (bytes.length > 0) {
      text += new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
    }
    bytes.length = 0;
  };
  for (const id of ids) {
    const token = tokens[id]!;
    if (kinds[id] === "byte") bytes.push(parseInt(token.slice(3, 5), 16));
    else {
      flush();
      text += kinds[id] === "whole" ? token : token.replaceAll(SPACE, " ");
    }
  }
  flush();
  return text;
}
