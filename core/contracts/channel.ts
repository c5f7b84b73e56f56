/**
 * The transport interface: opaque frames between two peers. A transport knows nothing of steps,
 * layers or tensors; the envelope and its checks live in `core/protocol`.
 *
 * @module
 */

/** What a transport can do, so that callers and tests need not guess. */
export interface TransportFlags {
  /** True if both sides can send at any time on one connection; false if frames travel by polling. */
  readonly duplex: boolean;
  /** True if frames arrive in the order in which they were sent. */
  readonly ordered: boolean;
  /** True if the peers may be on different machines. */
  readonly remote: boolean;
  /** Largest frame in bytes that `send` accepts. */
  readonly maxFrameBytes: number;
}

/** How a channel ended. */
export interface CloseInfo {
  /** True if one side closed it on purpose. */
  readonly clean: boolean;
  /** Reason in words; empty if none was given. */
  readonly reason: string;
}

/** Options of everything that waits. */
export interface WaitOptions {
  /** Ends the wait early; the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * One connection between two peers. Frames are opaque bytes.
 *
 * `send` resolves when the frame may be followed by another one (back-pressure), not when it
 * has arrived. A frame handed to `send` must not be changed afterwards.
 *
 * @category Transports
 */
export interface Channel extends AsyncDisposable {
  /** Name of the peer as the transport sees it, for messages to people. */
  readonly peer: string;
  /**
   * Sends one frame.
   *
   * @throws {RangeError} If the frame is larger than `flags.maxFrameBytes`.
   * @throws {ChannelClosedError} If the channel is closed.
   */
  send(frame: Uint8Array<ArrayBuffer>, options?: WaitOptions): Promise<void>;
  /**
   * Receives the next frame, in order.
   *
   * @returns The frame, or `null` once the channel is closed and all frames were taken.
   */
  receive(options?: WaitOptions): Promise<Uint8Array<ArrayBuffer> | null>;
  /**
   * Sets the largest frame in bytes that is taken in from now on: the peer that sends a larger one is closed.
   * Left out by channels that have no limit of their own.
   *
   * @param bytes `Infinity` for the channel's own limit.
   */
  limitReceived?(bytes: number): void;
  /** Resolves when the channel has ended, for whatever reason; never rejects. */
  readonly closed: Promise<CloseInfo>;
  /**
   * Closes the channel; frames already accepted by `send` are still delivered where the transport can. Idempotent.
   *
   * @param reason Reason in words, which the other side hears.
   * @param options Once the signal aborts, closing waits for the peer no longer: what it has not taken is lost. A call
   * with such a signal cuts an earlier one short too.
   */
  close(reason?: string, options?: WaitOptions): Promise<void>;
}

/** The connecting side of a transport. */
export interface Transport {
  /** Name for messages and reports, such as `"websocket"`. */
  readonly name: string;
  /** What this transport can do. */
  readonly flags: TransportFlags;
  /**
   * Opens a channel to the listening side.
   *
   * @throws {ChannelClosedError} If the other side cannot be reached, or takes on no channel now; the message says why.
   * @throws {HandshakeError} If the other side refuses and will do so the next time too, such as a token.
   */
  connect(options?: WaitOptions): Promise<Channel>;
}

/** The accepting side of a transport: channels as they are opened by peers. */
export interface Listener extends AsyncDisposable {
  /** Waits for the next channel; `null` once the listener is closed. */
  accept(options?: WaitOptions): Promise<Channel | null>;
}
