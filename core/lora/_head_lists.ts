/**
 * Lists of heads on the GPU.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";

/** Lists that are kept at most: one for each subset of heads that pruning chose, so that a long run does not grow. */
const MOST = 1024;

/** Lists of heads on the GPU, each uploaded once. */
export class HeadLists implements Disposable {
  readonly #engine: Engine;
  readonly #lists = new Map<string, Tensor>();

  /** Nothing is uploaded yet. */
  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** [1, n] u32. */
  of(list: readonly number[]): Tensor {
    const key = list.join();
    let tensor = this.#lists.get(key);
    if (tensor === undefined) {
      if (this.#lists.size >= MOST) this[Symbol.dispose]();
      tensor = this.#engine.upload(Uint32Array.from(list), 1, list.length, "head list");
      this.#lists.set(key, tensor);
    }
    return tensor;
  }

  /** Frees them. */
  [Symbol.dispose](): void {
    for (const tensor of this.#lists.values()) tensor.dispose();
    this.#lists.clear();
  }
}
