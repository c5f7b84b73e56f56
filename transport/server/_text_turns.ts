/**
 * Who is answered next: one request at a time, first come first served, and no more than so many waiting.
 *
 * @module
 */

import { WaitLine } from "../_wait_line.ts";
import { ApiError } from "./_api_error.ts";

/** Seconds after which a client that found no place may try again. */
const RETRY_AFTER = "2";

/** Gives turns to requests. */
export class TextTurns {
  readonly #line = new WaitLine<null, void>();
  readonly #mostWaiting: number;
  #isBusy = false;

  /** Lets so many requests wait beside the one that is answered. */
  constructor(mostWaiting: number) {
    this.#mostWaiting = mostWaiting;
  }

  /** Requests that wait. */
  get waiting(): number {
    return this.#line.length;
  }

  /**
   * Takes a place at once, before anything is waited for.
   *
   * @param signal Gives the place up.
   * @returns Resolves when it is this request's turn, with what ends it; rejects with the signal's reason.
   * @throws {ApiError} If all places are taken.
   */
  enter(signal: AbortSignal): Promise<Disposable> {
    const turn: Disposable = { [Symbol.dispose]: () => this.#end() };
    signal.throwIfAborted();
    if (!this.#isBusy) {
      this.#isBusy = true;
      return Promise.resolve(turn);
    }
    if (this.#line.length >= this.#mostWaiting) {
      throw new ApiError(
        `Cannot answer as at most ${this.#mostWaiting} requests may wait: as many do, try again later`,
        { status: 503, code: "overloaded", headers: { "retry-after": RETRY_AFTER } },
      );
    }
    return this.#line.wait(null, signal).then(() => turn);
  }

  #end(): void {
    const next = this.#line.shift();
    if (next === undefined) this.#isBusy = false;
    else next.resolve();
  }
}
