/**
 * Answers as text: sampling, with texts that end the answer and word of why it ended.
 *
 * @module
 */

import type { Tokenizer } from "../data/tokenizer.ts";
import type { DecodingSession } from "./model.ts";
import { sample, type SampleOptions } from "./sample.ts";
import { TextStream } from "./text_stream.ts";

/** Options of `completeText`. */
export interface CompleteTextOptions extends Omit<SampleOptions, "onToken"> {
  /** Texts that end the answer; they are no part of it. @default {[]} */
  readonly stop?: readonly string[] | undefined;
  /** Text that the model writes first and that is no part of the answer: what `encodeTurn` leaves to it. @default {""} */
  readonly lead?: string | undefined;
  /** Called with each piece of the text as it comes: whole letters, never empty. */
  onText?(piece: string): void;
}

/** An answer. */
export interface CompletedText {
  /** The text, without the token or text that ended it. */
  readonly text: string;
  /**
   * Why it ended: at an end token or a `stop` text, as there was no room for another token, or as the signal was
   * aborted.
   */
  readonly reason: "stop" | "length" | "aborted";
  /** Tokens that were generated, among them the one that ended the text. */
  readonly tokens: number;
}

/**
 * Continues a prompt as `sample` does, and gives the text piece by piece.
 *
 * @param session A fresh session of the model.
 * @param tokenizer What tokens mean.
 * @param prompt Tokens, at least one.
 * @param options How to draw, and what ends the text.
 * @returns The text: all pieces together.
 * @throws {RangeError} If an option is out of range, or a `stop` text is empty.
 * @throws {GenerationError} If the model gives logits that are not finite.
 * @category Generation
 *
 * @example
 * ```ts
 * import { CachedSession, completeText, encodeOpening, loadEmbeddingAndHead, loadLayers, openModel } from "@edgetuner/core";
 * import { Engine } from "@edgetuner/kernels";
 *
 * using engine = await Engine.create();
 * const { model, tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * using layers = loadLayers(engine, model);
 * using ends = loadEmbeddingAndHead(engine, model);
 * using session = new CachedSession({ engine, layers, ends, heads: null });
 * const { text, reason } = await completeText(session, tokenizer, encodeOpening(tokenizer, "The Heron is"), {
 *   ...{ maxNewTokens: 8, endTokens: [tokenizer.eos], stop: ["."] },
 *   onText: (piece) => console.log(piece),
 * });
 * console.log(text, reason);
 * ```
 */
export async function completeText(
  session: DecodingSession,
  tokenizer: Tokenizer,
  prompt: readonly number[],
  options: CompleteTextOptions,
): Promise<CompletedText> {
  const { stop, lead, onText, endTokens, signal } = options;
  const stream = new TextStream(tokenizer, { stop, lead });
  const stopped = new AbortController();
  let text = "";
  const give = (piece: string) => {
    if (piece === "") return;
    text += piece;
    onText?.(piece);
  };
  if (signal?.aborted) return { text, reason: "aborted", tokens: 0 };
  const tokens = await sample(session, prompt, {
    ...options,
    signal: signal === undefined ? stopped.signal : AbortSignal.any([signal, stopped.signal]),
    onToken(token) {
      if (endTokens.includes(token)) return;
      give(stream.push(token));
      if (stream.isStopped) stopped.abort();
    },
  });
  give(stream.end());
  const isEnded = stream.isStopped || (tokens.length > 0 && endTokens.includes(tokens.at(-1)!));
  const reason = isEnded ? "stop" : signal?.aborted ? "aborted" : "length";
  return { text, reason, tokens: tokens.length };
}
