/**
 * Decoding with a model on one machine, over a cache of keys and values.
 *
 * R = rows (continuations side by side), V = vocabulary.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";
import type { EncodedRequest } from "../data/choice_tasks.ts";
import type { GenerationModel } from "./greedy.ts";
import type { EmbeddingAndHead } from "../model/base.ts";
import { logitsOf, targetLogProbabilities } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { CachedLayers } from "./cached_layers.ts";
import { scoredBatch, scoredSequence } from "./likelihood.ts";
import type { DecodingSession } from "./model.ts";

/** What every session of tokens does: it checks tokens and rows; where the layers are is up to the classes that extend it. */
export abstract class TokenSession implements DecodingSession {
  readonly #ends: EmbeddingAndHead;
  /** Tokens of each row so far. */
  #length = 0;
  #rows = 0;

  /** Takes embedding, final norm and LM head; they are not disposed with the session. */
  constructor(ends: EmbeddingAndHead) {
    this.#ends = ends;
  }

  /** V, vocabulary entries. */
  get vocabulary(): number {
    return this.#ends.shape.vocabulary;
  }

  /** Tokens that fit, prompt included. */
  get contextLength(): number {
    return this.#ends.shape.positions;
  }

  /**
   * Takes the prompt; the session has one row then. What was there before is forgotten.
   *
   * @param prompt Its tokens, at least one.
   * @returns Logits of the token after it, [1, V].
   * @throws {RangeError} If the prompt is empty or does not fit, or a token is not in the vocabulary.
   */
  async start(prompt: readonly number[]): Promise<Float32Array> {
    this.#length = this.#rows = 0;
    if (prompt.length === 0 || prompt.length > this.contextLength) {
      throw new RangeError(
        `Cannot continue the prompt as it must have 1 to ${this.contextLength} tokens: current value is ${prompt.length}`,
      );
    }
    return await this.#pass(prompt, 1, null);
  }

  /**
   * Appends a token to each of R rows.
   *
   * @param tokens One token per new row, [R].
   * @param parents The row that each new row continues, [R]; rows without children are dropped.
   * @returns Logits of the tokens after them, [R, V].
   * @throws {TypeError} If there is no prompt yet, or the arrays do not fit each other or the rows.
   * @throws {RangeError} If no token fits any more, or a token is not in the vocabulary.
   */
  async append(tokens: readonly number[], parents: readonly number[]): Promise<Float32Array> {
    if (this.#rows === 0) {
      throw new TypeError("Cannot append tokens as the prompt must come first: it did not");
    }
    const bad = parents.find((p) => !(Number.isInteger(p) && p >= 0 && p < this.#rows));
    if (tokens.length === 0 || tokens.length !== parents.length || bad !== undefined) {
      throw new TypeError(
        `Cannot append tokens as each must continue one of ${this.#rows} rows: ${tokens.length} tokens continue [${parents}]`,
      );
    }
    if (this.#length >= this.contextLength) {
      throw new RangeError(
        `Cannot append tokens as a sequence must be at most ${this.contextLength} tokens: current value is ${this.#length}`,
      );
    }
    return await this.#pass(tokens, tokens.length, parents);
  }

  /**
   * Computes how likely a continuation is, as `logLikelihoods` does: one pass over all of its tokens. What was there
   * before is forgotten, and a prompt must come before tokens are appended.
   *
   * @param request Tokens, from `encodeRequest`; beyond `contextLength` they lose their start.
   * @returns Sum of the natural logarithms of the probabilities of the continuation's tokens, at most 0.
   * @throws {RangeError} If there is no token in the context, none to score, more than fit are to be scored, or a
   * token is not in the vocabulary.
   */
  async logLikelihood(request: EncodedRequest): Promise<number> {
    const ends = this.#ends;
    this.#length = this.#rows = 0;
    const sequence = scoredSequence(request, this.contextLength, this.vocabulary);
    const batch = scoredBatch([sequence], sequence.tokens.length - 1);
    const embedding = ends.embed(batch.tokens, Uint32Array.from(batch.tokens, (_, i) => i));
    using tape = new Tape(embedding.engine, { training: false });
    const hidden = await this.hidden(tape, embedding, 1, null);
    const values = await targetLogProbabilities(ends, hidden, batch);
    return values.reduce((sum, value) => sum + value, 0);
  }

  /**
   * h_L of new tokens; the layers keep their keys and values.
   *
   * @param tape Where the result lives.
   * @param embedding E, [R * T, d]; the tape's, or disposed.
   * @param rows R
   * @param parents As in `append`; `null` for a prompt.
   * @returns [R * T, d]
   */
  protected abstract hidden(
    tape: Tape,
    embedding: Tensor,
    rows: number,
    parents: readonly number[] | null,
  ): Promise<Tensor>;

  /** One pass over new tokens of all rows, row by row; returns the logits after the last one of each. */
  async #pass(
    tokens: readonly number[],
    rows: number,
    parents: readonly number[] | null,
  ): Promise<Float32Array> {
    const ends = this.#ends;
    const [first, length] = [this.#length, tokens.length / rows];
    // If the pass fails, the layers have forgotten what was there.
    this.#length = this.#rows = 0;
    const positions = Uint32Array.from(tokens, (_, i) => first + i % length);
    const embedding = ends.embed(Uint32Array.from(tokens), positions);
    using tape = new Tape(embedding.engine, { training: false });
    const hidden = await this.hidden(tape, embedding, rows, parents);
    const last = Uint32Array.from({ length: rows }, (_, row) => (row + 1) * length - 1);
    using logits = logitsOf(ends, hidden, last);
    const values = await logits.read();
    this.#length = first + length;
    this.#rows = rows;
    return values;
  }
}

/**
 * Continuations of one prompt by a GPT-2, an OPT or a LLaMA, with or without LoRA head modules.
 *
 * @category Generation
 */
export class CachedSession extends TokenSession implements Disposable {
  readonly #layers: CachedLayers;

  /**
   * Prepares a session; the model must live as long.
   *
   * @param model Layers, ends, and head modules or `null`; they are not disposed with the session.
   */
  constructor(model: GenerationModel) {
    super(model.ends);
    this.#layers = new CachedLayers(model);
  }

  /** Frees keys and values. */
  [Symbol.dispose](): void {
    this.#layers[Symbol.dispose]();
  }

  /** The layers over new tokens. */
  protected override async hidden(
    tape: Tape,
    embedding: Tensor,
    rows: number,
    parents: readonly number[] | null,
  ): Promise<Tensor> {
    return (await this.#layers.forward(tape, embedding, { rows, parents })).value;
  }
}
