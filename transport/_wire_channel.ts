/**
 * The half of a channel that all transports share: the queue of received frames, the line of
 * waiting senders, and the rules of closing. What differs is a small `Wire`.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type CloseInfo,
  MAX_PEER_TEXT,
  plainText,
  showValue,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { WaitLine } from "./_wait_line.ts";

/** One frame, as in `Channel`. */
export type Frame = Uint8Array<ArrayBuffer>;

/** Charged per frame on top of its bytes, so that many empty frames fill a queue too. */
const FRAME_OVERHEAD_BYTES = 64;

/** Bytes that a frame takes up in a queue. */
export function frameCost(frame: Frame): number {
  return frame.byteLength + FRAME_OVERHEAD_BYTES;
}

/** What carries the frames of one `WireChannel`. */
export interface Wire {
  /** True if `write` may be called now. When that turns true later, the wire calls `channel.wake()`. */
  ready(): boolean;
  /** Takes over one frame. */
  write(frame: Frame): void;
  /** Tells that the receiver took a frame out of the queue. */
  taken(frame: Frame): void;
  /** Tells that no larger frames are wanted from now on; for wires that hand frames on. */
  limitReceived?(bytes: number): void;
  /**
   * Delivers what `write` took, then ends the connection. Has a time limit of its own, and ends at once when
   * `channel.cut` aborts; never rejects.
   */
  shutdown(reason: string): Promise<void>;
}

/** What a `WireChannel` is made of. */
export interface WireChannelOptions {
  /** Name of the peer. */
  readonly peer: string;
  /** Largest frame in bytes that `send` accepts. */
  readonly maxFrameBytes: number;
}

/** A channel on top of a `Wire`. */
export class WireChannel implements Channel {
  readonly peer: string;
  readonly closed: Promise<CloseInfo>;
  readonly #maxFrameBytes: number;
  readonly #wire: Wire;
  readonly #senders = new WaitLine<Frame, void>();
  readonly #receivers = new WaitLine<undefined, Frame | null>();
  readonly #settle: (info: CloseInfo) => void;
  #frames: Frame[] = [];
  #head = 0;
  #queuedBytes = 0;
  #info: CloseInfo | undefined;
  #receiving = true;
  readonly #cut = new AbortController();
  /** Largest frame that is taken in, if that is less than the wire's own limit. */
  maxReceivedBytes = Infinity;
  /** For the wire: the other end wants no larger frames; set by whoever hands them on. */
  limitHandedOn: (bytes: number) => void = () => {};

  constructor(options: WireChannelOptions, makeWire: (channel: WireChannel) => Wire) {
    const { promise, resolve } = Promise.withResolvers<CloseInfo>();
    this.peer = options.peer;
    this.#maxFrameBytes = options.maxFrameBytes;
    this.closed = promise;
    this.#settle = resolve;
    this.#wire = makeWire(this);
  }

  /** Bytes of received frames that nobody took yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** False once frames from the wire are no longer wanted. */
  get receiving(): boolean {
    return this.#receiving;
  }

  /** Aborts when closing is to wait for the peer no longer. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  // An async function runs at once up to its first await, so frames keep the order of the calls.
  async send(frame: Frame, { signal }: WaitOptions = {}): Promise<void> {
    if (frame.byteLength > this.#maxFrameBytes) {
      throw new RangeError(
        `Cannot send a frame as it must not exceed ${this.#maxFrameBytes} bytes: current size is ${frame.byteLength}`,
      );
    }
    signal?.throwIfAborted();
    if (this.#info) throw this.#refusal(this.#info);
    if (this.#senders.length === 0 && this.#wire.ready()) {
      this.#wire.write(frame);
    } else {
      await this.#senders.wait(frame, signal);
    }
  }

  async receive({ signal }: WaitOptions = {}): Promise<Frame | null> {
    signal?.throwIfAborted();
    const frame = this.#shift();
    if (frame) {
      this.#queuedBytes -= frameCost(frame);
      this.#wire.taken(frame);
      return frame;
    }
    return this.#receiving ? await this.#receivers.wait(undefined, signal) : null;
  }

  limitReceived(bytes: number): void {
    this.maxReceivedBytes = bytes;
    this.#wire.limitReceived?.(bytes);
  }

  async close(reason = "", { signal }: WaitOptions = {}): Promise<void> {
    const cut = () => this.#cut.abort();
    if (signal?.aborted) cut();
    else signal?.addEventListener("abort", cut, { once: true });
    if (this.#receiving) {
      this.end({ clean: true, reason });
      this.#wire.shutdown(reason).finally(() => this.settle());
    }
    await this.closed;
    signal?.removeEventListener("abort", cut);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** For the wire: lets waiting senders go on while the wire is ready. */
  wake(): void {
    while (this.#senders.length > 0 && !this.#info && this.#wire.ready()) {
      const sender = this.#senders.shift();
      if (!sender) return;
      this.#wire.write(sender.item);
      sender.resolve();
    }
  }

  /** For the wire: hands over a received frame; ignored once the channel has ended. */
  deliver(frame: Frame): void {
    if (!this.#receiving) return;
    const receiver = this.#receivers.shift();
    if (receiver) {
      receiver.resolve(frame);
      this.#wire.taken(frame);
    } else {
      this.#frames.push(frame);
      this.#queuedBytes += frameCost(frame);
    }
  }

  /** For the wire: nothing more can be sent, while received frames may still follow. The first info stays. */
  endSending({ clean, reason }: CloseInfo): void {
    // The reason may be the peer's.
    this.#info ??= { clean, reason: plainText(reason) };
    for (let sender = this.#senders.shift(); sender; sender = this.#senders.shift()) {
      sender.reject(this.#refusal(this.#info));
    }
  }

  /** For the wire: nothing more can be sent or received. Frames in the queue can still be taken. */
  end(info: CloseInfo): void {
    this.endSending(info);
    this.#receiving = false;
    for (let receiver = this.#receivers.shift(); receiver; receiver = this.#receivers.shift()) {
      receiver.resolve(null);
    }
  }

  /** For the wire, after `end`: everything behind the channel is released. */
  settle(): void {
    this.#settle(this.#info ?? { clean: false, reason: "" });
  }

  #shift(): Frame | undefined {
    const frame = this.#frames[this.#head];
    if (!frame) return undefined;
    this.#head++;
    // Cutting the front off now and then keeps taking a frame cheap however long the queue is.
    if (this.#head === this.#frames.length || this.#head === 1024) {
      this.#frames = this.#frames.slice(this.#head);
      this.#head = 0;
    }
    return frame;
  }

  #refusal({ reason }: CloseInfo): ChannelClosedError {
    return new ChannelClosedError(
      `Cannot send a frame to ${JSON.stringify(this.peer)} as the channel must be open: ` +
        `it is closed, reason is ${showValue(reason, MAX_PEER_TEXT)}`,
    );
  }
}
