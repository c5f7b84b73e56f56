/**
 * Flow control between two peers: each grants the other a total of bytes that it may send, and
 * raises the grant as its frames are taken. Without it a receiver that does not keep up would
 * have to hold all frames in memory, as neither WebSocket nor polling slows a sender down.
 *
 * Grants are totals since the start, so that a repeated or late one does no harm.
 *
 * @module
 */

import { type Frame, frameCost } from "./_wire_channel.ts";

/** The state of flow control at one end of a connection. */
export class Flow {
  readonly #windowBytes: number;
  #sent = 0;
  #maySend = 0;
  #received = 0;
  #taken = 0;
  #granted: number;

  constructor(windowBytes: number) {
    this.#windowBytes = windowBytes;
    this.#granted = windowBytes;
  }

  /** True if the peer has room for a frame. One frame may exceed the grant, so that any size gets through. */
  get ready(): boolean {
    return this.#sent < this.#maySend;
  }

  /** True if the peer should hear of a higher grant soon; not on every frame, as messages cost more than bytes. */
  get due(): boolean {
    return this.#taken + this.#windowBytes - this.#granted >= this.#windowBytes / 4;
  }

  /** Counts a frame that is sent. */
  sent(frame: Frame): void {
    this.#sent += frameCost(frame);
  }

  /** Counts a received frame; false if the peer had no right to send it. */
  received(frame: Frame): boolean {
    const allowed = this.#received < this.#granted;
    this.#received += frameCost(frame);
    return allowed;
  }

  /** Counts a frame that the receiver took. */
  taken(frame: Frame): void {
    this.#taken += frameCost(frame);
  }

  /** Returns the grant to tell the peer now. */
  grant(): number {
    this.#granted = this.#taken + this.#windowBytes;
    return this.#granted;
  }

  /** Notes a grant of the peer; true if it is higher than before. */
  raise(grant: number): boolean {
    if (!(grant > this.#maySend)) return false;
    this.#maySend = grant;
    return true;
  }
}
