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
export interface CompleteTextOptions extends Omit<SampleOptions, "onToken" | "mayBegin"> {
  /** Texts that end the answer; they are no part of it. @default {[]} */
  readonly stop?: readonly string[] | undefined;
  /**
   * Text that the model must write first and that is no part of the answer: what `encodeTurn` leaves to it.
   * @default {""}
   */
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

/** Tokens of a prompt behind which the next ones are decoded, so that none loses a space as the first of a text may. */
const CONTEXT = 4;

/**
 * Holds `sample` to texts that begin with a lead: a token may be a part of it, or have it before something else.
 *
 * @param lead What `encodeTurn` leaves to the model.
 * @param tokenizer What tokens mean.
 * @param prompt What the text follows.
 * @returns An option of `sample`; nothing if the lead is empty.
 * @category Generation
 *
 * @example
 * ```ts
 * import { beginningWith, openModel } from "@edgetuner/core";
 *
 * const { tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * const { mayBegin } = beginningWith(" ", tokenizer, tokenizer.encode("The Heron is"));
 * console.log(mayBegin!(tokenizer.encode(" near")), mayBegin!(tokenizer.encode("near"))); // true false
 * ```
 */
export function beginningWith(
  lead: string,
  tokenizer: Pick<Tokenizer, "decode" | "vocabSize">,
  prompt: readonly number[],
): Pick<SampleOptions, "mayBegin"> {
  if (lead === "") return {};
  const context = prompt.slice(-CONTEXT);
  const before = tokenizer.decode(context);
  const textOf = (tokens: readonly number[]) =>
    tokens.every((token) => token < tokenizer.vocabSize)
      ? tokenizer.decode([...context, ...tokens]).slice(before.length)
      : "";
  let isOver = false;
  return {
    mayBegin(generated) {
      const earlier = isOver ? "" : textOf(generated.slice(0, -1));
      // A text that has begun, or could not begin so, may go on with anything.
      isOver ||= generated.length > 1 && (earlier.length >= lead.length || !lead.startsWith(earlier));
      if (isOver) return true;
      const text = textOf(generated);
      return text !== "" && (text.startsWith(lead) || lead.startsWith(text));
    },
  };
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
    ...beginningWith(lead ?? "", tokenizer, prompt),
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
