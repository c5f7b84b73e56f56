/**
 * Connecting to a listener that may not be there yet.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type Transport,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { milliseconds } from "./_options.ts";

/** What is known when an attempt to connect has failed and another one follows. */
export interface ConnectAttempt {
  /** Attempts so far. */
  readonly attempts: number;
  /** Why the last one failed. */
  readonly error: Error;
  /** Milliseconds until the next one. */
  readonly pauseMs: number;
  /** Milliseconds that are left of `timeoutMs`. */
  readonly leftMs: number;
}

/** Options of {@linkcode connectWithin}. */
export interface ConnectOptions extends WaitOptions {
  /**
   * Longest time in milliseconds over which attempts are made.
   *
   * @default {60000}
   */
  readonly timeoutMs?: number;
  /**
   * Pause in milliseconds after the first failed attempt; each one after it is twice as long.
   *
   * @default {250}
   */
  readonly firstPauseMs?: number;
  /**
   * Longest pause in milliseconds.
   *
   * @default {5000}
   */
  readonly maxPauseMs?: number;
  /**
   * What the other side is called where it never answered.
   *
   * @default {name of the transport}
   */
  readonly name?: string;
  /** Called after each failed attempt but the last. */
  readonly onRetry?: (attempt: ConnectAttempt) => void;
}

/**
 * Connects, and tries again with growing pauses while the other side cannot be reached. A refusal for good, such
 * as of a token, ends it at once.
 *
 * @example Usage
 * ```ts
 * import { connectWithin, inProcessTransport } from "@edgetuner/transport";
 *
 * const { transport } = inProcessTransport();
 * await using channel = await connectWithin(transport, { timeoutMs: 5000 });
 * ```
 *
 * @param transport Way to the listener.
 * @param options Limits, and who hears of failed attempts.
 * @returns The open channel.
 * @throws {ChannelClosedError} If no attempt succeeded in time; the message says how many there were, and why the last one failed.
 * @throws {HandshakeError} If the listener refused for good.
 * @throws {RangeError} If an option is out of range.
 */
export async function connectWithin(transport: Transport, options: ConnectOptions = {}): Promise<Channel> {
  const timeoutMs = milliseconds("timeoutMs", options.timeoutMs, 60_000);
  const maxPauseMs = milliseconds("maxPauseMs", options.maxPauseMs, 5000);
  let pauseMs = Math.min(maxPauseMs, milliseconds("firstPauseMs", options.firstPauseMs, 250));
  const { signal } = options;
  const until = performance.now() + timeoutMs;
  let last: Error | undefined;
  using limit = new Limit(timeoutMs, signal);
  for (let attempts = 1;; attempts++) {
    try {
      return await transport.connect({ signal: limit.signal });
    } catch (cause) {
      signal?.throwIfAborted();
      if (!limit.signal.aborted && !(cause instanceof ChannelClosedError)) throw cause;
      if (!limit.signal.aborted) last = cause as Error;
    }
    const error = last ??
      new ChannelClosedError(`Cannot connect to ${options.name ?? transport.name}: no answer`);
    const leftMs = until - performance.now();
    if (limit.signal.aborted || leftMs <= pauseMs) {
      throw new ChannelClosedError(
        `${error.message}; ${attempts === 1 ? "one attempt" : `${attempts} attempts`} within ${timeoutMs} ms`,
        { cause: error },
      );
    }
    options.onRetry?.({ attempts, error, pauseMs, leftMs });
    await limit.pause(pauseMs);
    signal?.throwIfAborted();
    pauseMs = Math.min(2 * pauseMs, maxPauseMs);
  }
}

/** A signal that aborts at a limit or with another one; leaves no timer behind. */
class Limit implements Disposable {
  readonly #controller = new AbortController();
  readonly #timer: ReturnType<typeof setTimeout>;
  readonly #outer: AbortSignal | undefined;
  readonly #onAbort = () => this.#controller.abort(this.#outer?.reason);

  constructor(ms: number, outer: AbortSignal | undefined) {
    this.#outer = outer;
    this.#timer = setTimeout(() => this.#controller.abort(new DOMException("too late", "TimeoutError")), ms);
    if (outer?.aborted) this.#onAbort();
    outer?.addEventListener("abort", this.#onAbort);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Waits, but no longer than the signal allows. */
  async pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    const end = () => resolve();
    this.signal.addEventListener("abort", end, { once: true });
    if (this.signal.aborted) resolve();
    await promise;
    clearTimeout(timer);
    this.signal.removeEventListener("abort", end);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#onAbort);
  }
}
