/**
 * Limits of waits, which may all begin anew.
 *
 * @module
 */

/** The limit of one wait. */
export interface Deadline {
  /** Aborts at the limit, with a `TimeoutError`, or with the outer signal. */
  readonly signal: AbortSignal;
  /** Ends the limit. */
  clear(): void;
}

/** The limits that run. */
export class Deadlines {
  readonly #restarts = new Set<() => void>();

  /**
   * Begins a limit. `AbortSignal.timeout` would leave an object behind for the whole of it.
   *
   * @param ms How long.
   * @param outer Ends the wait earlier.
   */
  begin(ms: number, outer: AbortSignal | undefined): Deadline {
    const controller = new AbortController();
    const expire = () => controller.abort(new DOMException("the limit was reached", "TimeoutError"));
    let timer = setTimeout(expire, ms);
    const restart = () => {
      clearTimeout(timer);
      timer = setTimeout(expire, ms);
    };
    this.#restarts.add(restart);
    const onAbort = () => controller.abort(outer!.reason);
    if (outer?.aborted) onAbort();
    else outer?.addEventListener("abort", onAbort);
    return {
      signal: controller.signal,
      clear: () => {
        clearTimeout(timer);
        this.#restarts.delete(restart);
        outer?.removeEventListener("abort", onAbort);
      },
    };
  }

  /** All limits begin anew. */
  restart(): void {
    for (const restart of this.#restarts) restart();
  }
}
