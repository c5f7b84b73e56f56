/**
 * Callers that wait for their turn, first come first served.
 *
 * @module
 */

/** One caller in a `WaitLine`. */
export interface Waiter<Item, Result> {
  /** What the caller brought along. */
  readonly item: Item;
  /** Lets the caller go on. */
  readonly resolve: (result: Result) => void;
  /** Sends the caller away. */
  readonly reject: (reason: unknown) => void;
}

/** A line of waiting callers, each of which may leave early through its signal. */
export class WaitLine<Item, Result> {
  readonly #waiters: Waiter<Item, Result>[] = [];

  /** Number of callers that wait. */
  get length(): number {
    return this.#waiters.length;
  }

  /** Joins the line; rejects with the signal's reason if it aborts first. */
  wait(item: Item, signal: AbortSignal | undefined): Promise<Result> {
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const leave = () => {
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
      reject(signal?.reason);
    };
    const waiter: Waiter<Item, Result> = {
      item,
      resolve(result) {
        signal?.removeEventListener("abort", leave);
        resolve(result);
      },
      reject(reason) {
        signal?.removeEventListener("abort", leave);
        reject(reason);
      },
    };
    signal?.addEventListener("abort", leave, { once: true });
    this.#waiters.push(waiter);
    return promise;
  }

  /** Takes the first caller out of the line. */
  shift(): Waiter<Item, Result> | undefined {
    return this.#waiters.shift();
  }
}
