/**
 * One end of a WebSocket connection; `web_socket.ts` has the protocol.
 *
 * @module
 */

import { type CloseInfo, showValue } from "@edgetuner/core/contracts";
import { dropSocket } from "./_drop_socket.ts";
import { Flow } from "./_flow.ts";
import {
  count,
  DEFAULT_MAX_FRAME_BYTES,
  DEFAULT_QUEUE_BYTES,
  milliseconds,
  signsOfLife,
} from "./_options.ts";
import { type Frame, type Wire, WireChannel } from "./_wire_channel.ts";

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
   * Silence of the peer in milliseconds after which the channel ends: at least twice `pingIntervalMs`. A link that
   * was cut without a word is found so.
   *
   * @default {30000}
   */
  readonly idleTimeoutMs?: number;
}

// Each part is a sign of life: at 100 kbit/s one takes 21 seconds.
const PART_BYTES = 2 ** 18;
// Above this Deno writes a message in two pieces, its head first. Nagle's algorithm, which is on in the
// client socket, may keep the second piece back until the head is acknowledged, 40 ms on Linux.
const ONE_WRITE_BYTES = 1024;
// From here on a frame fills segments of the network, which are acknowledged at once.
const MANY_SEGMENTS_BYTES = 65_536;

// Finer than a frame takes at 1 Gbit/s, coarse enough to cost nothing.
const BUFFER_POLL_MS = 1;

const CLOSE_PROTOCOL = 4002;
const CLOSE_TOO_MUCH = 4008;
const CLOSE_TOO_LARGE = 4009;
const CLOSE_SILENT = 4010;

/** Options of a WebSocket, read. */
export interface Limits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  readonly bufferBytes: number;
  readonly closeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly idleTimeoutMs: number;
}

/** What a side of a connection does. */
interface WireOptions {
  readonly limits: Limits;
  /** True if each message gets a prompt answer: the accepting side. */
  readonly answersAll: boolean;
}

/** Shortest time between two looks at whether the peer lives, and so between two signs of life. */
const MIN_LOOK_MS = 10;
const MAX_LOOK_MS = 500;

/** Time for a farewell to leave before a socket that nobody answers is dropped. */
const DROP_MS = 300;

/** One WebSocket as the wire of a channel: flow, parts and signs of life, see `web_socket.ts`. */
export class WebSocketWire implements Wire {
  readonly #socket: WebSocket;
  readonly #channel: WireChannel;
  readonly #limits: Limits;
  readonly #answersAll: boolean;
  readonly #flow: Flow;
  readonly #ended = Promise.withResolvers<void>();
  #poll: ReturnType<typeof setTimeout> | undefined;
  #parts: { readonly frame: Frame; filled: number } | undefined;
  #watch: ReturnType<typeof setInterval> | undefined;
  #heard = true;
  #sentAt = performance.now();
  #signEveryMs: number;
  /** What the socket said about its failure. */
  failure = "";

  constructor(socket: WebSocket, channel: WireChannel, { limits, answersAll }: WireOptions) {
    this.#socket = socket;
    this.#channel = channel;
    this.#limits = limits;
    this.#answersAll = answersAll;
    this.#flow = new Flow(limits.queueBytes);
    this.#signEveryMs = limits.pingIntervalMs;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("error", (event) => {
      if ("message" in event && typeof event.message === "string") this.failure = event.message;
    });
    socket.addEventListener("close", ({ code, reason, wasClean }) => {
      const clean = wasClean && (code === 1000 || code === 1005);
      this.#end({
        clean,
        reason: reason || (clean ? "" : this.failure || `The connection was lost (code ${code})`),
      });
    });
  }

  /** To be called once the socket is open. */
  start(): void {
    this.#sendGrant();
    this.#sendAlive();
    const { idleTimeoutMs } = this.#limits;
    const lookMs = Math.min(MAX_LOOK_MS, Math.max(MIN_LOOK_MS, Math.ceil(idleTimeoutMs / 8)));
    // Looks are counted, not the clock: a process that was held up itself has had no chance to hear anything.
    let silentMs = 0;
    this.#watch = setInterval(() => {
      silentMs = this.#heard ? 0 : silentMs + lookMs;
      this.#heard = false;
      if (silentMs >= idleTimeoutMs) this.#lose(`The peer was silent for ${idleTimeoutMs} ms`);
      else if (performance.now() - this.#sentAt >= this.#signEveryMs - lookMs) this.#sendAlive();
    }, lookMs);
  }

  ready(): boolean {
    if (!this.#flow.ready) return false;
    if (this.#socket.bufferedAmount < this.#limits.bufferBytes) return true;
    // There is no event for a drained buffer.
    this.#poll ??= setTimeout(() => {
      this.#poll = undefined;
      this.#channel.wake();
    }, BUFFER_POLL_MS);
    return false;
  }

  write(frame: Frame): void {
    this.#flow.sent(frame);
    // A socket that is closing drops it, as a network does; the close event follows.
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    // Parts that are written in one go end where segments do: each is answered, and so acknowledged.
    const inOneGo = !this.#answersAll && frame.byteLength < MANY_SEGMENTS_BYTES;
    const part = inOneGo ? ONE_WRITE_BYTES : PART_BYTES;
    this.#sentAt = performance.now();
    if (frame.byteLength <= part) {
      this.#socket.send(frame);
      return;
    }
    this.#socket.send(`parts ${frame.byteLength}`);
    for (let at = 0; at < frame.byteLength; at += part) {
      this.#socket.send(frame.subarray(at, at + part));
    }
  }

  taken(frame: Frame): void {
    this.#flow.taken(frame);
    if (this.#flow.due) this.#sendGrant();
  }

  async shutdown(reason: string): Promise<void> {
    await this.#close(1000, reason);
  }

  #sendGrant(): void {
    this.#write(`grant ${this.#flow.grant()}`);
  }

  #sendAlive(): void {
    // A peer that has much to read yet hears enough, and one that does not read would only fill the memory.
    if (this.#reads) this.#write(`alive ${this.#limits.idleTimeoutMs}`);
  }

  #write(text: string): void {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#sentAt = performance.now();
    this.#socket.send(text);
  }

  /** True unless the peer leaves what is sent to it. */
  get #reads(): boolean {
    return this.#socket.bufferedAmount < this.#limits.bufferBytes;
  }

  #receive(data: unknown): void {
    this.#heard = true;
    if (!this.#channel.receiving) return;
    if (typeof data === "string") this.#note(data);
    else if (data instanceof ArrayBuffer) this.#binary(new Uint8Array(data));
    // The client socket of Deno keeps Nagle's algorithm on: a second small message waits until
    // the first is acknowledged, 40 ms on Linux. A prompt answer carries the acknowledgement.
    // A peer that does not read its answers gets none, or they would pile up here.
    if (this.#answersAll && this.#reads && this.#channel.receiving) this.#sendGrant();
  }

  #note(text: string): void {
    const match = /^(grant|parts|alive) (\d{1,15})$/.exec(text);
    const value = Number(match?.[2]);
    if (!match || (match[1] === "parts" && this.#parts)) {
      this.#fail(CLOSE_PROTOCOL, `Cannot read the text message ${showValue(text, 20)}`);
    } else if (match[1] === "grant") {
      if (this.#flow.raise(value)) this.#channel.wake();
    } else if (match[1] === "alive") {
      this.#signEveryMs = Math.max(MIN_LOOK_MS, Math.min(this.#limits.pingIntervalMs, Math.floor(value / 3)));
      if (performance.now() - this.#sentAt >= this.#signEveryMs / 2) this.#sendAlive();
    } else if (value > this.#maxFrameBytes) {
      this.#failSize(value);
    } else {
      this.#parts = { frame: new Uint8Array(value), filled: 0 };
    }
  }

  #binary(bytes: Frame): void {
    const parts = this.#parts;
    if (!parts) return this.#deliver(bytes);
    const filled = parts.filled + bytes.byteLength;
    if (bytes.byteLength === 0 || filled > parts.frame.byteLength) {
      return this.#fail(CLOSE_PROTOCOL, "The parts of a frame must add up to its size");
    }
    parts.frame.set(bytes, parts.filled);
    parts.filled = filled;
    if (filled === parts.frame.byteLength) {
      this.#parts = undefined;
      this.#deliver(parts.frame);
    }
  }

  #deliver(frame: Frame): void {
    if (frame.byteLength > this.#maxFrameBytes) {
      this.#failSize(frame.byteLength);
    } else if (!this.#flow.received(frame)) {
      this.#fail(CLOSE_TOO_MUCH, `More than ${this.#limits.queueBytes} bytes wait to be received`);
    } else {
      this.#channel.deliver(frame);
    }
  }

  #failSize(bytes: number): void {
    this.#fail(
      CLOSE_TOO_LARGE,
      `A frame must not exceed ${this.#maxFrameBytes} bytes: size is ${bytes}`,
    );
  }

  /** Largest frame that is taken in now. */
  get #maxFrameBytes(): number {
    return Math.min(this.#limits.maxFrameBytes, this.#channel.maxReceivedBytes);
  }

  #fail(code: number, reason: string): void {
    this.#channel.end({ clean: false, reason });
    this.#close(code, reason).then(() => this.#channel.settle());
  }

  async #close(code: number, reason: string): Promise<void> {
    this.#stopTimers();
    // A farewell that waits behind what nobody reads could not be taken back, and would hold the socket.
    const leave = () => {
      if (this.#socket.bufferedAmount > 0) return;
      clearInterval(leaving);
      this.#socket.close(code, shorten(reason));
    };
    const leaving = setInterval(leave, BUFFER_POLL_MS);
    leave();
    const { cut } = this.#channel;
    const end = () => this.#ended.resolve();
    if (cut.aborted) end();
    cut.addEventListener("abort", end, { once: true });
    const timer = setTimeout(end, this.#limits.closeTimeoutMs);
    await this.#ended.promise;
    clearInterval(leaving);
    clearTimeout(timer);
    cut.removeEventListener("abort", end);
    this.#release(code, reason);
  }

  /** Ends the channel without waiting for a peer that is gone. */
  #lose(reason: string): void {
    this.#end({ clean: false, reason });
    this.#release(CLOSE_SILENT, reason);
  }

  /** Lets a socket go that nobody may answer: it would hold its process, or its place at a server. */
  #release(code: number, reason: string): void {
    if (this.#socket.readyState === WebSocket.CLOSED) return;
    if (this.#socket.bufferedAmount > 0 && dropSocket(this.#socket)) return;
    this.#socket.close(code, shorten(reason));
    const timer = setTimeout(() => void dropSocket(this.#socket), DROP_MS);
    this.#socket.addEventListener("close", () => clearTimeout(timer), { once: true });
  }

  #end(info: CloseInfo): void {
    this.#stopTimers();
    this.#channel.end(info);
    this.#channel.settle();
    this.#ended.resolve();
  }

  #stopTimers(): void {
    clearInterval(this.#watch);
    clearTimeout(this.#poll);
    this.#poll = undefined;
  }
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
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    bufferBytes: count("bufferBytes", options.bufferBytes, 2 ** 20),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
    ...signsOfLife(options),
  };
}

/** Makes the channel of a socket. */
export function wrap(
  socket: WebSocket,
  { peer, ...options }: WireOptions & { readonly peer: string },
): [WireChannel, WebSocketWire] {
  let wire: WebSocketWire | undefined;
  const channel = new WireChannel(
    { peer, maxFrameBytes: options.limits.maxFrameBytes },
    (channel) => wire = new WebSocketWire(socket, channel, options),
  );
  return [channel, wire!];
}
