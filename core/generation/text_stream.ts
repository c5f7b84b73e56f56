/**
 * Tokens as text while they come: whole letters only, and nothing that may belong to a text which ends the answer.
 *
 * @module
 */

import type { Tokenizer } from "../data/tokenizer.ts";

/** Tokens after which a letter that is still broken stays so: no letter has as many bytes. */
const MOST_HELD = 16;

/** Options of `TextStream`. */
export interface TextStreamOptions {
  /** Texts that end the answer; they are no part of it. None may be empty. @default {[]} */
  readonly stop?: readonly string[] | undefined;
  /** Text that comes first and is no part of the answer, such as the end of the prompt. @default {""} */
  readonly lead?: string | undefined;
}

/**
 * Makes text of tokens one by one. What it has given is never taken back: a letter of several tokens comes once it is
 * whole, and what may become one of the `stop` texts once it is clear that it does not.
 *
 * @category Generation
 *
 * @example
 * ```ts
 * import { openModel, TextStream } from "@edgetuner/core";
 *
 * const { tokenizer } = await openModel("cli/assets/tiny_gpt2");
 * const stream = new TextStream(tokenizer, { stop: ["\n"] });
 * let text = "";
 * for (const token of tokenizer.encode("A pub near the river.\nIt is cheap.")) text += stream.push(token);
 * text += stream.end();
 * console.log(text, stream.isStopped); // "A pub near the river." true
 * ```
 */
export class TextStream {
  readonly #tokenizer: Pick<Tokenizer, "decode" | "vocabSize">;
  readonly #stop: readonly string[];
  readonly #tokens: number[] = [];
  /** Where the tokens begin that are decoded again, so that spaces before a word are as in the whole text. */
  #from = 0;
  /** Tokens whose text is known. */
  #known = 0;
  /** Text that may still become one of the `stop` texts. */
  #held = "";
  #isStopped = false;
  /** What of the lead has not come yet. */
  #lead: string;

  /**
   * Prepares a stream.
   *
   * @param tokenizer What the tokens are of.
   * @param options Texts that end the answer.
   * @throws {RangeError} If one of them is empty.
   */
  constructor(
    tokenizer: Pick<Tokenizer, "decode" | "vocabSize">,
    { stop = [], lead = "" }: TextStreamOptions = {},
  ) {
    if (stop.includes("")) {
      throw new RangeError("Cannot stream a text as texts that end it must not be empty: one is");
    }
    this.#tokenizer = tokenizer;
    this.#stop = stop;
    this.#lead = lead;
  }

  /** True once one of the `stop` texts has come: nothing more will. */
  get isStopped(): boolean {
    return this.#isStopped;
  }

  /**
   * Takes the next token. Those beyond the vocabulary say nothing, as models may have more rows than their tokenizer
   * has tokens.
   *
   * @param token The token.
   * @returns What is certain of the text now, after what was given before; empty if nothing is.
   */
  push(token: number): string {
    if (this.#isStopped || token >= this.#tokenizer.vocabSize) return "";
    this.#tokens.push(token);
    const isEndless = this.#tokens.length - this.#known > MOST_HELD;
    return this.#certain(this.#answer(this.#decoded(isEndless)));
  }

  /**
   * Ends the text.
   *
   * @returns What is left of it.
   */
  end(): string {
    return this.#isStopped ? "" : this.#certain(this.#answer(this.#decoded(true))) + this.#release();
  }

  /** Text of the tokens that have none yet; none while their last letter is not whole, unless it never will be. */
  #decoded(isLast: boolean): string {
    const tokens = this.#tokens;
    if (this.#known === tokens.length) return "";
    const before = this.#tokenizer.decode(tokens.slice(this.#from, this.#known));
    const all = this.#tokenizer.decode(tokens.slice(this.#from));
    if (all.endsWith("\ufffd") && !isLast) return "";
    // A letter that never becomes whole must not be decoded again with what follows it.
    this.#from = all.endsWith("\ufffd") ? tokens.length : this.#known;
    this.#known = tokens.length;
    return all.slice(before.length);
  }

  /** A piece without what of it is the lead. Where another text comes instead, nothing more of that is left out. */
  #answer(piece: string): string {
    let same = 0;
    while (same < piece.length && piece[same] === this.#lead[same]) same++;
    this.#lead = same === piece.length ? this.#lead.slice(same) : "";
    return piece.slice(same);
  }

  /** What is held, once nothing follows it. */
  #release(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }

  /** What of the held text and a new piece can be given. */
  #certain(piece: string): string {
    const text = this.#held + piece;
    const at = this.#stop.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    if (at.length > 0) {
      this.#isStopped = true;
      this.#held = "";
      return text.slice(0, Math.min(...at));
    }
    const held = this.#beginning(text);
    this.#held = text.slice(text.length - held);
    return text.slice(0, text.length - held);
  }

  /** Length of the longest end of a text with which one of the `stop` texts begins. */
  #beginning(text: string): number {
    let longest = 0;
    for (const stop of this.#stop) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
