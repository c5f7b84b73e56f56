/**
 * What both sides of the HTTP transport have.
 *
 * @module
 */

import { batchLength } from "./_http_body.ts";
import { count, DEFAULT_MAX_FRAME_BYTES, DEFAULT_QUEUE_BYTES, milliseconds } from "./_options.ts";
import { type Frame, frameCost } from "./_wire_channel.ts";

/** Options that both sides of the HTTP transport have. */
export interface HttpOptions {
  /**
   * Largest frame in bytes, both ways; a channel uses the smaller value of the two sides.
   *
   * @default {67108864}
   */
  readonly maxFrameBytes?: number;
  /**
   * Bytes that the peer may have sent beyond what was taken by `receive`, and that may wait to be
   * fetched by it; one frame may exceed it. A peer that sends more is closed.
   *
   * @default {4194304}
   */
  readonly queueBytes?: number;
  /**
   * Longest time in milliseconds that closing waits for the peer.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
}

/** Limits of both sides, complete. */
export interface Limits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  readonly closeTimeoutMs: number;
}

/** Reads the limits of both sides. */
export function readLimits(options: HttpOptions): Limits {
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
  };
}

/** A wait of at most `ms` that can be cut short. Never leaves a timer behind. */
export class Pause {
  readonly #done = Promise.withResolvers<void>();
  readonly #timer: ReturnType<typeof setTimeout>;
  /** Resolves at the end of the wait. */
  readonly over: Promise<void> = this.#done.promise;

  constructor(ms: number) {
    this.#timer = setTimeout(() => this.#done.resolve(), ms);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#done.resolve();
  }
}

/**
 * Frames that the peer has not acknowledged. Bounded whatever the peer grants, as one that grants much
 * and fetches nothing would fill the memory.
 */
export class Outbox {
  readonly #queueBytes: number;
  readonly #frames: Frame[] = [];
  #bytes = 0;
  #first = 0;

  constructor(queueBytes: number) {
    this.#queueBytes = queueBytes;
  }

  /** Number of frames. */
  get length(): number {
    return this.#frames.length;
  }

  /** Sequence number of the first frame. */
  get first(): number {
    return this.#first;
  }

  /** True if no frame should be added now. */
  get full(): boolean {
    return this.#bytes >= this.#queueBytes;
  }

  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frameCost(frame);
  }

  /** Returns the first frames, as many as go into one body. */
  batch(): Frame[] {
    return this.#frames.slice(0, batchLength(this.#frames));
  }

  /** Drops all frames; those in a request under way can still be acknowledged. */
  clear(): void {
    this.#frames.length = 0;
    this.#bytes = 0;
  }

  /** Counts `length` frames as arrived and drops them. */
  acknowledge(length: number): void {
    for (const frame of this.#frames.splice(0, length)) this.#bytes -= frameCost(frame);
    this.#first += length;
  }
}
