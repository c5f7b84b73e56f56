/**
 * The layers' half of decoding: keys and values of all tokens so far stay where attention is computed, so
 * that a new token costs one row of work in every layer.
 *
 * R = rows (continuations side by side), T = new tokens of each row, L layers, G heads of keys and values,
 * D head size, d hidden size.
 *
 * @module
 */

import {
  attention,
  cachedAttention,
  type Engine,
  extendCache,
  type KeyValueCache,
  type Tensor,
} from "@edgetuner/kernels";
import type { AttentionCache, AttentionStyle, BaseLayers } from "../model/base.ts";
import type { HeadPort } from "../contracts/ports.ts";
import type { Tape, Variable } from "../model/tape.ts";

/** Slots of a cache are made in multiples of this: the cache is copied once in as many tokens. */
const SLOT_STEP = 16;

/** What `CachedLayers` is made of; none of it is disposed with it. */
export interface CachedLayersOptions {
  /** The engine of the layers. */
  readonly engine: Engine;
  /** The layers. */
  readonly layers: BaseLayers;
  /** Where the head modules live; `null` for the base model alone. */
  readonly heads: HeadPort | null;
}

/** New tokens of all rows. */
export interface DecodingPass {
  /** R, rows after the pass. */
  readonly rows: number;
  /** The row that each new row continues, [R]; `null` to begin with a prompt in one row. */
  readonly parents: readonly number[] | null;
  /** Step that the head modules are told. @default {0} */
  readonly step?: number;
  /** True if the pass may be done again where it fails: what was kept before it is there again then. @default {false} */
  readonly repeats?: boolean;
}

/** Layers of a GPT-2, an OPT or a LLaMA with the keys and values of the tokens before. */
export class CachedLayers implements Disposable {
  readonly #options: CachedLayersOptions;
  readonly #caches: (KeyValueCache | null)[];
  #length = 0;
  #rows = 0;

  /** See `CachedLayersOptions`. */
  constructor(options: CachedLayersOptions) {
    this.#options = options;
    this.#caches = Array(options.layers.shape.layers).fill(null);
  }

  /** R, rows so far; 0 before the prompt. */
  get rows(): number {
    return this.#rows;
  }

  /** Tokens of each row so far. */
  get length(): number {
    return this.#length;
  }

  /** Bytes of the keys and values of `rows` sequences of `length` tokens: 4 * L * R * S * 2 G D, S = T rounded up to slots. */
  bytesFor(rows: number, length: number): number {
    const { layers, kvHeads, headSize } = this.#options.layers.shape;
    const slots = Math.ceil(length / SLOT_STEP) * SLOT_STEP;
    return 4 * layers * rows * slots * 2 * kvHeads * headSize;
  }

  /**
   * The layers over new tokens of all rows. If a pass fails, what was kept is forgotten: some layers would
   * have the new tokens, others not.
   *
   * @param tape Where the result lives.
   * @param embedding E of the new tokens, [R * T, d], row by row; the tape's from now on.
   * @param pass Rows and what they continue.
   * @returns h_L, [R * T, d].
   * @throws {TypeError} If E or parents do not fit the rows.
   */
  async forward(tape: Tape, embedding: Tensor, pass: DecodingPass): Promise<Variable> {
    const { layers, heads } = this.#options;
    const { rows, parents, step = 0, repeats = false } = pass;
    const input = tape.variable(embedding, { needsGradient: false });
    if (parents === null) this.forget();
    const length = embedding.rows / rows;
    const bad = parents?.find((p) => !(Number.isInteger(p) && p >= 0 && p < this.#rows));
    if (
      !Number.isInteger(length) || bad !== undefined ||
      (parents === null ? rows !== 1 : parents.length !== rows)
    ) {
      throw new TypeError(
        `Cannot decode as each of ${rows} new rows must continue one of ${this.#rows}, or one row begin: current value is ${embedding.rows} tokens that continue [${
          parents ?? ""
        }]`,
      );
    }
    const before = repeats ? [...this.#caches] : null;
    try {
      const mask = new Uint8Array(layers.shape.layers * layers.shape.heads);
      const microBatches = [{ index: 0, batch: rows, rows: embedding.rows, firstRow: 0 }];
      await heads?.beginStep({ step, mode: "evaluate", mask, microBatches });
      const stay = parents !== null && parents.length === this.#rows && parents.every((p, row) => p === row);
      const cache: AttentionCache = {
        first: this.#length,
        attend: (tape, qkv, layer, style) =>
          this.#attend(tape, qkv.value, { layer, style, rows, parents: stay ? null : parents, repeats }),
      };
      const hidden = await layers.forward(tape, input, { batch: rows, length, cache }, heads);
      this.#length += length;
      this.#rows = rows;
      if (before !== null) disposeOthers(before, this.#caches);
      return hidden;
    } catch (error) {
      if (before === null) this.forget();
      else {
        disposeOthers(this.#caches, before);
        this.#caches.splice(0, Infinity, ...before);
      }
      throw error;
    }
  }

  /** Frees keys and values; a new prompt may begin. */
  forget(): void {
    for (const cache of this.#caches) cache?.values.dispose();
    this.#caches.fill(null);
    this.#length = 0;
    this.#rows = 0;
  }

  /** Frees keys and values. */
  [Symbol.dispose](): void {
    this.forget();
  }

  #attend(
    tape: Tape,
    qkv: Tensor,
    { layer, style, rows, parents, repeats }: {
      readonly layer: number;
      readonly style: AttentionStyle | undefined;
      readonly rows: number;
      readonly parents: readonly number[] | null;
      readonly repeats: boolean;
    },
  ): Variable {
    const { heads, kvHeads, headSize } = this.#options.layers.shape;
    const before = this.#caches[layer] ?? null;
    const columns = 2 * kvHeads * headSize;
    const options = { cache: before, qkv, columns, parents, rows, slotStep: SLOT_STEP, keepsOld: repeats };
    const cache = extendCache(options);
    this.#caches[layer] = cache;
    let output: Tensor;
    if (before === null) {
      // The prompt sees itself alone.
      const result = attention(qkv, { ...style, batch: 1, length: qkv.rows, heads, kvHeads });
      result.logSums.dispose();
      output = result.output;
    } else {
      output = cachedAttention(qkv, cache, { ...style, heads, kvHeads });
    }
    return tape.variable(output, { needsGradient: false });
  }
}

/** Frees those whose tensors are not among the others. */
function disposeOthers(
  caches: readonly (KeyValueCache | null)[],
  others: readonly (KeyValueCache | null)[],
): void {
  for (const [i, cache] of caches.entries()) {
    if (cache !== null && cache.values !== others[i]?.values) cache.values.dispose();
  }
}
