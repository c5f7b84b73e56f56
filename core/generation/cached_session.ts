/**
 * Decoding with a model on one machine: keys and values of all tokens so far stay on the GPU, so that a
 * new token costs one row of work in every layer, not a pass over the whole text.
 *
 * R = rows (continuations side by side), V = vocabulary, H heads, G heads of keys and values, D head size.
 *
 * @module
 */

import { attention, cachedAttention, extendCache, type KeyValueCache, type Tensor } from "@edgetuner/kernels";
import type { GenerationModel } from "../generate.ts";
import type { AttentionCache } from "../model/base.ts";
import { logitsOf } from "../model/loss.ts";
import { Tape, type Variable } from "../tape.ts";
import type { DecodingSession } from "./model.ts";

/** Slots of a cache are made in multiples of this: the cache is copied once in as many tokens. */
const SLOT_STEP = 16;

/** Continuations of one prompt by a GPT-2, an OPT or a LLaMA, with or without LoRA head modules. */
export class CachedSession implements DecodingSession, Disposable {
  readonly #model: GenerationModel;
  readonly #caches: (KeyValueCache | null)[];
  /** Tokens of each row so far. */
  #length = 0;
  #rows = 0;

  /**
   * Prepares a session; the model must live as long.
   *
   * @param model Layers, ends, and head modules or `null`; they are not disposed with the session.
   */
  constructor(model: GenerationModel) {
    this.#model = model;
    this.#caches = Array(model.layers.shape.layers).fill(null);
  }

  /** V, vocabulary entries. */
  get vocabulary(): number {
    return this.#model.ends.shape.vocabulary;
  }

  /** Tokens that fit, prompt included. */
  get capacity(): number {
    return this.#model.ends.shape.positions;
  }

  /**
   * Takes the prompt; the session has one row then. What was there before is forgotten.
   *
   * @param prompt Its tokens, at least one.
   * @returns Logits of the token after it, [1, V].
   * @throws {RangeError} If the prompt is empty or does not fit, or a token is not in the vocabulary.
   */
  async start(prompt: readonly number[]): Promise<Float32Array> {
    this.#forget();
    if (prompt.length === 0 || prompt.length > this.capacity) {
      throw new RangeError(
        `Cannot continue the prompt as it must have 1 to ${this.capacity} tokens: current value is ${prompt.length}`,
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
    if (this.#length >= this.capacity) {
      throw new RangeError(
        `Cannot append tokens as a sequence must be at most ${this.capacity} tokens: current value is ${this.#length}`,
      );
    }
    const stay = parents.length === this.#rows && parents.every((parent, row) => parent === row);
    return await this.#pass(tokens, tokens.length, stay ? null : parents);
  }

  /** Frees keys and values. */
  [Symbol.dispose](): void {
    this.#forget();
  }

  /** One pass over new tokens of all rows, row by row; returns the logits after the last one of each. */
  async #pass(
    tokens: readonly number[],
    rows: number,
    parents: readonly number[] | null,
  ): Promise<Float32Array> {
    const { engine, layers, ends, heads } = this.#model;
    const { shape } = layers;
    const first = this.#length;
    const length = tokens.length / rows;
    try {
      await heads?.beginStep({
        step: 0,
        mode: "evaluate",
        mask: new Uint8Array(shape.layers * shape.heads),
      });
      using tape = new Tape(engine, false);
      const positions = Uint32Array.from(tokens, (_, i) => first + i % length);
      const embedding = tape.variable(ends.embed(Uint32Array.from(tokens), positions), false);
      const cache: AttentionCache = {
        first,
        attend: (tape, qkv, layer) => this.#attend(tape, qkv, layer, rows, parents),
      };
      const hidden = await layers.forward(tape, embedding, { batch: rows, length, cache }, heads);
      const last = Uint32Array.from({ length: rows }, (_, row) => (row + 1) * length - 1);
      using logits = logitsOf(ends, hidden.value, last);
      this.#length = first + length;
      this.#rows = rows;
      return await logits.read();
    } catch (error) {
      this.#forget(); // some layers may have the new tokens, others not
      throw error;
    }
  }

  #attend(
    tape: Tape,
    qkv: Variable,
    layer: number,
    rows: number,
    parents: readonly number[] | null,
  ): Variable {
    const { heads, kvHeads, headSize } = this.#model.layers.shape;
    const before = this.#caches[layer] ?? null;
    const columns = 2 * kvHeads * headSize;
    const options = { cache: before, qkv: qkv.value, columns, parents, rows, slotStep: SLOT_STEP };
    const cache = extendCache(options);
    this.#caches[layer] = cache;
    let output: Tensor;
    if (before === null) {
      // The prompt sees itself alone.
      const result = attention(qkv.value, { batch: 1, length: qkv.value.rows, heads, kvHeads });
      result.logSums.dispose();
      output = result.output;
    } else {
      output = cachedAttention(qkv.value, cache, { heads, kvHeads });
    }
    return tape.variable(output, false);
  }

  #forget(): void {
    for (const cache of this.#caches) cache?.values.dispose();
    this.#caches.fill(null);
    this.#length = 0;
    this.#rows = 0;
  }
}
