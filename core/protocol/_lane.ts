/**
 * The frames of one lane that wait to be asked for, and those who wait for frames.
 *
 * @module
 */

import { ProtocolError } from "../contracts/errors.ts";
import type { Frame } from "./frame.ts";
import { markArrival } from "./took.ts";

/** Most frames that may wait in a lane. */
const MAX_QUEUED_FRAMES = 64;

/** A frame that waits, and the bytes of memory that it takes. */
interface Queued {
  readonly frame: Frame;
  readonly bytes: number;
}

/** Someone who waits for a frame. */
export interface Waiter {
  /** Gives the frame. */
  resolve(frame: Frame): void;
  /** None will come. */
  reject(error: unknown): void;
}

/** A lane of a peer. */
export class LaneQueue {
  readonly #queue: Queued[] = [];
  readonly #waiters: Waiter[] = [];
  #bytes = 0;
  /** Times that a step has begun again: frames of before are not of use any more. */
  attempt = 0;

  /** The frame that came first, if one has come. */
  take(): Frame | null {
    const queued = this.#queue.shift();
    if (queued === undefined) return null;
    this.#bytes -= queued.bytes;
    return queued.frame;
  }

  /** Somebody waits. */
  wait(waiter: Waiter): void {
    this.#waiters.push(waiter);
  }

  /** Somebody waits no longer. */
  forget(waiter: Waiter): void {
    const at = this.#waiters.indexOf(waiter);
    if (at >= 0) this.#waiters.splice(at, 1);
  }

  /**
   * A frame comes: for whoever waits, or to wait itself. One of an older attempt is dropped.
   *
   * @param frame The frame.
   * @param bytes What it takes in memory.
   * @param most Most bytes that may wait.
   * @param name Name of the peer.
   * @throws {ProtocolError} If too much waits.
   */
  put(frame: Frame, bytes: number, { most, name }: { readonly most: number; readonly name: string }): void {
    if (this.#isOld(frame)) return;
    markArrival(frame);
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) return waiter.resolve(frame);
    const all = this.#bytes + bytes;
    const { length } = this.#queue;
    if (length === MAX_QUEUED_FRAMES || (length > 0 && all > most)) {
      throw new ProtocolError(
        `Cannot go on with ${name} as at most ${MAX_QUEUED_FRAMES} frames and ${most} bytes may be ahead: ${
          length + 1
        } frames and ${all} bytes are`,
      );
    }
    this.#queue.push({ frame, bytes });
    this.#bytes = all;
  }

  /** All who wait get an error. */
  reject(error: unknown): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
  }

  /** A step begins again: frames of before are dropped, here and when they come. */
  begin(attempt: number): void {
    this.attempt = attempt;
    for (const queued of this.#queue.splice(0)) {
      if (this.#isOld(queued.frame)) this.#bytes -= queued.bytes;
      else this.#queue.push(queued);
    }
  }

  /** The end of a run is of every attempt. */
  #isOld({ kind, attempt = 0 }: Frame): boolean {
    return kind !== "end" && attempt < this.attempt;
  }
}
