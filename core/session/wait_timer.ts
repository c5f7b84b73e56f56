/**
 * How long an edge server waited for devices.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";

/**
 * Milliseconds in which at least one wait was going on, less what micro-batches that did not wait were held up
 * by the own GPU meanwhile.
 */
export class WaitTimer {
  readonly #engine: Engine;
  /** Milliseconds so far. */
  waitMs = 0;
  /** Waits in progress, and when the first of them began. */
  #count = 0;
  #from = { at: 0, readbackMs: 0 };

  /** Starts at 0. @param engine The engine of the base model. */
  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** Waits for something. */
  async track<T>(promise: Promise<T>): Promise<T> {
    const { stats } = this.#engine;
    if (this.#count++ === 0) this.#from = { at: performance.now(), readbackMs: stats.readbackMs };
    try {
      return await promise;
    } finally {
      if (--this.#count === 0) {
        const readback = stats.readbackMs - this.#from.readbackMs;
        this.waitMs += Math.max(0, performance.now() - this.#from.at - readback);
      }
    }
  }
}
