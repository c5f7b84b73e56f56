/**
 * What carries the messages of a session over WebSocket: one socket after another; `web_socket.ts` has the protocol.
 *
 * @module
 */

import type { CloseInfo } from "@edgetuner/core/contracts";
import { dropSocket } from "./_drop_socket.ts";
import {
  count,
  DEFAULT_MAX_FRAME_BYTES,
  DEFAULT_QUEUE_BYTES,
  milliseconds,
  signsOfLife,
} from "./_options.ts";
import { HEADER_BYTES } from "./_packet.ts";
import {
  type LinkTraits,
  type PacketLink,
  streamChannel,
  type StreamLimits,
  type StreamWire,
} from "./_stream_wire.ts";
import type { Frame, WireChannel } from "./_wire_channel.ts";

/** Options that both sides of a WebSocket have. */
export interface WebSocketOptions {
  /**
   * Largest frame in bytes, both ways. Should be the same on both sides: a peer that receives a
   * larger frame closes the channel.
   *
   * @default {67108864}
   */
  readonly maxFrameBytes?: number;
  /**
   * Bytes that the peer may have sent beyond what was taken by `receive`; one frame may exceed it.
   * A peer that sends more is closed.
   *
   * @default {4194304}
   */
  readonly queueBytes?: number;
  /**
   * Bytes that may wait inside the WebSocket before `send` waits.
   *
   * @default {1048576}
   */
  readonly bufferBytes?: number;
  /**
   * Bytes that are kept until the peer has acknowledged them, to be sent again over a new connection; `send` waits
   * beyond. One frame may exceed it.
   *
   * @default {16777216}
   */
  readonly unackedBytes?: number;
  /**
   * Longest time in milliseconds that closing waits for the peer.
   *
   * @default {5000}
   */
  readonly closeTimeoutMs?: number;
  /**
   * Time in milliseconds without anything sent after which this side sends a sign of life. The peer's own
   * limit shortens it to a third of that limit.
   *
   * @default {10000}
   */
  readonly pingIntervalMs?: number;
  /**
   * Silence of the peer in milliseconds after which the connection is given up, and made anew: at least twice
   * `pingIntervalMs`. A link that was cut without a word is found so.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number;
  /**
   * Time in milliseconds without a connection after which the channel ends.
   *
   * @default {10000}
   */
  readonly retryTimeoutMs?: number;
  /**
   * The same at the accepting side where the network said that the peer's end of the connection was closed: a program
   * that lives connects again at once, and one that was killed does not. A peer that comes later has lost its place.
   *
   * @default {2000, or `retryTimeoutMs` if that is less}
   */
  readonly goneTimeoutMs?: number;
}

/** Options of a WebSocket, read. */
export interface Limits extends StreamLimits {
  readonly bufferBytes: number;
  readonly retryTimeoutMs: number;
  readonly goneTimeoutMs: number;
}

// Each part is a sign of life: at 100 kbit/s one takes 21 seconds.
const PART_BYTES = 2 ** 18 - HEADER_BYTES;
// Above 1024 bytes Deno writes a message in two pieces, its head first. Nagle's algorithm, which is on in the
// client socket, may keep the second piece back until the head is acknowledged, 40 ms on Linux.
const ONE_WRITE_BYTES = 1024 - HEADER_BYTES;
// From here on a frame fills segments of the network, which are acknowledged at once.
const MANY_SEGMENTS_BYTES = 65_536;

// Finer than a frame takes at 1 Gbit/s, coarse enough to cost nothing.
const BUFFER_POLL_MS = 1;
/** Time for a peer to connect again whose connection was closed without a farewell. */
const GONE_MS = 2000;
/** Nobody waits for an acknowledgement as long as little is under way. */
const ACK_DELAY_MS = 50;

/** Codes of the ends of a socket. */
export const CLOSE = {
  done: 1000,
  goingAway: 1001,
  noCode: 1005,
  protocol: 4002,
  noSession: 4004,
  replaced: 4005,
  silent: 4010,
} as const;

/** Time for a farewell to leave before a socket that nobody answers is dropped. */
const DROP_MS = 300;

/** What a session over WebSockets is made of. */
export interface SocketLinkOptions {
  readonly limits: Limits;
  /** True at the accepting side: there each message gets a prompt answer. */
  readonly isAccepting: boolean;
  /** Makes the next connection; the accepting side waits for it. */
  readonly reconnect?: () => void;
  /** The session is over. */
  readonly onRelease?: () => void;
}

/** The sockets of a session, one after another. */
export class SocketLink implements PacketLink {
  readonly traits: LinkTraits;
  readonly #options: SocketLinkOptions;
  readonly #limits: Limits;
  #socket: WebSocket | undefined;
  #wire: StreamWire | undefined;
  #wake: () => void = () => {};
  #poll: ReturnType<typeof setTimeout> | undefined;
  #isReleased = false;
  /** Sockets that are given up. */
  readonly #leaving = new Set<Promise<void>>();

  constructor(options: SocketLinkOptions) {
    this.#options = options;
    this.#limits = options.limits;
    this.traits = {
      isOrdered: true,
      isPrivate: true,
      givesBytes: true,
      // The client socket of Deno keeps Nagle's algorithm on: a second small message waits until the first is
      // acknowledged, 40 ms on Linux. A prompt answer carries the acknowledgement.
      answersAll: options.isAccepting,
      ackDelayMs: ACK_DELAY_MS,
      retryTimeoutMs: options.limits.retryTimeoutMs,
    };
  }

  /** The session that is carried; nothing is received before. */
  join(wire: StreamWire, wake: () => void): void {
    this.#wire = wire;
    this.#wake = wake;
  }

  get isUp(): boolean {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  get hasRoom(): boolean {
    if (this.#socket === undefined || this.#socket.bufferedAmount < this.#limits.bufferBytes) return true;
    // There is no event for a drained buffer.
    this.#poll ??= setTimeout(() => {
      this.#poll = undefined;
      this.#wake();
    }, BUFFER_POLL_MS);
    return false;
  }

  partBytes(frameBytes: number): number {
    // Parts that are written in one go end where segments do: each is answered, and so acknowledged.
    const inOneGo = !this.#options.isAccepting && frameBytes < MANY_SEGMENTS_BYTES;
    return inOneGo ? ONE_WRITE_BYTES : PART_BYTES;
  }

  publish(bytes: Frame): void {
    // A socket that is closing drops it, as a network does.
    if (this.isUp) this.#socket!.send(bytes);
  }

  /** Goes on over an open socket. The one before is given up: its peer may be gone without the network having said so. */
  attach(socket: WebSocket): void {
    const before = this.#socket;
    this.#socket = undefined;
    if (before !== undefined) this.#giveUp(before, CLOSE.replaced, "Another connection took its place");
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => {
      if (this.#socket === socket) this.#receive(data);
    });
    socket.addEventListener("close", (event) => {
      if (this.#socket === socket) this.#closed(event);
    });
    socket.send(`alive ${this.#limits.idleTimeoutMs}`);
  }

  renew(reason: string): void {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket !== undefined) this.#giveUp(socket, CLOSE.silent, reason);
    this.#lost(reason);
  }

  async release({ clean, reason }: CloseInfo): Promise<void> {
    if (this.#isReleased) return;
    this.#isReleased = true;
    clearTimeout(this.#poll);
    const socket = this.#socket;
    this.#socket = undefined;
    this.#options.onRelease?.();
    if (socket !== undefined) this.#giveUp(socket, clean ? CLOSE.done : CLOSE.protocol, reason);
    await Promise.all(this.#leaving);
  }

  #giveUp(socket: WebSocket, code: number, reason: string): void {
    const leaving = giveUp(socket, code, reason).finally(() => this.#leaving.delete(leaving));
    this.#leaving.add(leaving);
  }

  #receive(data: unknown): void {
    if (data instanceof ArrayBuffer) return this.#wire?.receive(new Uint8Array(data));
    const match = typeof data === "string" && data.length < 30 ? /^alive (\d{1,10})$/.exec(data) : null;
    if (match) this.#wire!.peerIdleMs = Number(match[1]);
    else this.#wire?.fail("Cannot read a text message of the session");
  }

  #closed({ code, reason, wasClean }: CloseEvent): void {
    this.#socket = undefined;
    const wire = this.#wire;
    if (wire === undefined || wire.isOver) return;
    if (code === CLOSE.protocol || code === CLOSE.noSession) return wire.lose(reason);
    // A program that is gone says nothing more; a page that is closed has its browser say so.
    if (this.#options.isAccepting && wasClean) {
      if (code === CLOSE.done || code === CLOSE.noCode) return wire.left({ clean: true, reason });
      if (code === CLOSE.goingAway) return wire.lose(reason || "The peer has gone");
    }
    const lost = reason || `The connection was lost (code ${code})`;
    // Nobody closes a socket without a farewell but a system whose program is gone, or something on the way.
    this.#lost(lost, this.#options.isAccepting && !wasClean ? this.#limits.goneTimeoutMs : undefined);
  }

  #lost(reason: string, lostAfterMs?: number): void {
    this.#wire?.pause(reason, lostAfterMs);
    if (this.#wire?.isOver === false) this.#options.reconnect?.();
  }
}

/**
 * Lets a socket go that nobody may answer: it would hold its process, or its place at a server.
 *
 * @returns Once it is closed or dropped, soon.
 */
export function giveUp(socket: WebSocket, code: number, reason: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // A farewell that waits behind what nobody reads could not be taken back, and would hold the socket.
  const leave = () => {
    if (socket.bufferedAmount > 0) return;
    clearInterval(leaving);
    socket.close(code, shorten(reason));
  };
  const end = () => {
    clearInterval(leaving);
    clearTimeout(timer);
    resolve();
  };
  const leaving = setInterval(leave, BUFFER_POLL_MS);
  const timer = setTimeout(() => {
    clearInterval(leaving);
    if (dropSocket(socket)) return;
    socket.close(code, shorten(reason));
    end();
  }, DROP_MS);
  socket.addEventListener("close", end, { once: true });
  if (socket.readyState === WebSocket.CLOSED) end();
  else leave();
  return promise;
}

/** Cuts a text to the 123 bytes that a WebSocket allows for a reason. */
function shorten(reason: string): string {
  const bytes = new Uint8Array(123);
  const { written } = new TextEncoder().encodeInto(reason, bytes);
  return new TextDecoder().decode(bytes.subarray(0, written));
}

/**
 * Reads the options of a side.
 *
 * @throws {RangeError} If one is out of range.
 */
export function readLimits(options: WebSocketOptions): Limits {
  const retryTimeoutMs = milliseconds("retryTimeoutMs", options.retryTimeoutMs, 10_000);
  const goneTimeoutMs = milliseconds("goneTimeoutMs", options.goneTimeoutMs, GONE_MS);
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    bufferBytes: count("bufferBytes", options.bufferBytes, 2 ** 20),
    unackedBytes: count("unackedBytes", options.unackedBytes, 2 ** 24),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
    retryTimeoutMs,
    goneTimeoutMs: Math.min(goneTimeoutMs, retryTimeoutMs),
    ...signsOfLife(options),
  };
}

/** Makes the channel of a session whose first socket is open. */
export function socketSession(
  socket: WebSocket,
  { peer, ...options }: SocketLinkOptions & { readonly peer: string },
): { readonly channel: WireChannel; readonly wire: StreamWire; readonly link: SocketLink } {
  const { limits } = options;
  const link = new SocketLink(options);
  const [channel, wire] = streamChannel(link, { peer, limits, peerIdleMs: limits.idleTimeoutMs });
  link.join(wire, () => channel.wake());
  link.attach(socket);
  wire.start();
  return { channel, wire, link };
}
