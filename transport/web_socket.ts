/**
 * A transport over WebSocket. The connecting side runs in Deno and in browsers, the accepting
 * side in Deno.
 *
 * The protocol, for peers written in other languages: the subprotocol is `edgetuner.v1`. Each
 * binary message is one frame. Text messages are notes between the two ends of the connection:
 *
 * - `grant N`: the other side may send until the sum of `bytes + 64` over its frames since the start
 *   reaches N; the frame that crosses the line is still allowed. Sent by both sides right after
 *   opening and as frames are taken; the accepting side also answers each message with it.
 * - `parts N`: the following binary messages together form one frame of N bytes. Used for frames
 *   above 16 MiB, as implementations limit the size of one message.
 *
 * A token travels as a second subprotocol, `edgetuner.token.` followed by base64url of its UTF-8
 * bytes, since browsers let a page set no other header. TLS hides it like a header; servers
 * never send it back.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type CloseInfo,
  type Listener,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core";
import { Backlog } from "./_backlog.ts";
import { Flow } from "./_flow.ts";
import {
  amount,
  count,
  DEFAULT_MAX_FRAME_BYTES,
  DEFAULT_QUEUE_BYTES,
  endpoint,
  milliseconds,
} from "./_options.ts";
import { type Frame, type Wire, WireChannel } from "./_wire_channel.ts";
import { refusal } from "./problem.ts";
import { type Authorize, checkToken, offeredSubprotocols, SUBPROTOCOL, subprotocols } from "./token.ts";

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
}

/** Options of {@linkcode webSocketTransport}. */
export interface WebSocketTransportOptions extends WebSocketOptions {
  /** Address of the listener; `http` and `https` are understood as `ws` and `wss`. */
  readonly url: string | URL;
  /** Token shown to the listener. Visible ASCII characters only. */
  readonly token?: string;
  /**
   * Longest time in milliseconds that connecting takes.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
}

/** Options of {@linkcode webSocketListener}. */
export interface WebSocketListenerOptions extends WebSocketOptions {
  /** Decides who may connect; everyone if absent. */
  readonly authorize?: Authorize;
  /**
   * Largest number of channels that are open at the same time.
   *
   * @default {256}
   */
  readonly maxChannels?: number;
  /**
   * Seconds after which a silent peer is pinged, and then closed if it does not answer; 0 turns it off.
   *
   * @default {30}
   */
  readonly idleTimeoutSeconds?: number;
}

/** What a listener may be told about a request. */
export interface HandleOptions {
  /** Name of the peer in messages to people, such as its address. */
  readonly peer?: string;
}

/** The accepting side of a WebSocket transport, returned by {@linkcode webSocketListener}. */
export interface WebSocketListener extends Listener {
  /**
   * Answers one request; mount it on a path of any fetch handler.
   *
   * Answers 401 if `authorize` refuses, 503 if no channel can be taken on, 426 if the request is not
   * a WebSocket handshake, 400 if the handshake is malformed or does not offer the subprotocol.
   *
   * @param request The request as it came in.
   * @param options What is known about the peer.
   * @returns The response to send back.
   */
  handle(request: Request, options?: HandleOptions): Promise<Response>;
}

// Deno fails messages of 64 MiB; smaller parts also let pings through in between.
const PART_BYTES = 16 * 2 ** 20;
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

interface Limits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  readonly bufferBytes: number;
  readonly closeTimeoutMs: number;
}

class WebSocketWire implements Wire {
  readonly #socket: WebSocket;
  readonly #channel: WireChannel;
  readonly #limits: Limits;
  readonly #answersAll: boolean;
  readonly #flow: Flow;
  readonly #ended = Promise.withResolvers<void>();
  #poll: ReturnType<typeof setTimeout> | undefined;
  #parts: { readonly frame: Frame; filled: number } | undefined;
  /** What the socket said about its failure. */
  failure = "";

  constructor(socket: WebSocket, channel: WireChannel, limits: Limits, answersAll: boolean) {
    this.#socket = socket;
    this.#channel = channel;
    this.#limits = limits;
    this.#answersAll = answersAll;
    this.#flow = new Flow(limits.queueBytes);
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
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(`grant ${this.#flow.grant()}`);
  }

  #receive(data: unknown): void {
    if (!this.#channel.receiving) return;
    if (typeof data === "string") this.#note(data);
    else if (data instanceof ArrayBuffer) this.#binary(new Uint8Array(data));
    // The client socket of Deno keeps Nagle's algorithm on: a second small message waits until
    // the first is acknowledged, 40 ms on Linux. A prompt answer carries the acknowledgement.
    // A peer that does not read its answers gets none, or they would pile up here.
    const reads = this.#socket.bufferedAmount < this.#limits.bufferBytes;
    if (this.#answersAll && reads && this.#channel.receiving) this.#sendGrant();
  }

  #note(text: string): void {
    const match = /^(grant|parts) (\d{1,15})$/.exec(text);
    const value = Number(match?.[2]);
    if (!match || (match[1] === "parts" && this.#parts)) {
      this.#fail(CLOSE_PROTOCOL, `Cannot read the text message ${JSON.stringify(text.slice(0, 20))}`);
    } else if (match[1] === "grant") {
      if (this.#flow.raise(value)) this.#channel.wake();
    } else if (value > this.#limits.maxFrameBytes) {
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
    if (frame.byteLength > this.#limits.maxFrameBytes) {
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
      `A frame must not exceed ${this.#limits.maxFrameBytes} bytes: size is ${bytes}`,
    );
  }

  #fail(code: number, reason: string): void {
    this.#channel.end({ clean: false, reason });
    this.#close(code, reason).then(() => this.#channel.settle());
  }

  async #close(code: number, reason: string): Promise<void> {
    this.#stopPolling();
    this.#socket.close(code, shorten(reason));
    const timer = setTimeout(() => this.#ended.resolve(), this.#limits.closeTimeoutMs);
    await this.#ended.promise;
    clearTimeout(timer);
  }

  #end(info: CloseInfo): void {
    this.#stopPolling();
    this.#channel.end(info);
    this.#channel.settle();
    this.#ended.resolve();
  }

  #stopPolling(): void {
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

function readLimits(options: WebSocketOptions): Limits {
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    bufferBytes: count("bufferBytes", options.bufferBytes, 2 ** 20),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
  };
}

function wrap(
  socket: WebSocket,
  peer: string,
  limits: Limits,
  answersAll: boolean,
): [WireChannel, WebSocketWire] {
  let wire: WebSocketWire | undefined;
  const channel = new WireChannel(
    { peer, maxFrameBytes: limits.maxFrameBytes },
    (channel) => wire = new WebSocketWire(socket, channel, limits, answersAll),
  );
  return [channel, wire!];
}

/**
 * Makes the connecting side.
 *
 * @example Usage
 * ```ts
 * import { webSocketListener, webSocketTransport } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using listener = webSocketListener();
 * await using server = Deno.serve({ port: 0, onListen() {} }, (request) => listener.handle(request));
 *
 * const transport = webSocketTransport({ url: `ws://127.0.0.1:${server.addr.port}` });
 * await using device = await transport.connect();
 * await using edge = await listener.accept();
 *
 * await device.send(new Uint8Array([1, 2, 3]));
 * assertEquals(await edge?.receive(), new Uint8Array([1, 2, 3]));
 * ```
 *
 * @param options Address, token and limits.
 * @returns The transport; nothing is opened before `connect`.
 * @throws {RangeError} If an option is out of range.
 * @throws {SyntaxError} If `url` is not a URL.
 * @throws {TypeError} If `url` has another scheme, or `token` does not fit into a header.
 */
export function webSocketTransport(options: WebSocketTransportOptions): Transport {
  const url = endpoint(options.url, "ws");
  url.hash = "";
  const { token } = options;
  if (token !== undefined) checkToken(token);
  const limits = readLimits(options);
  const connectTimeoutMs = milliseconds("connectTimeoutMs", options.connectTimeoutMs, 10_000);
  const flags: TransportFlags = {
    duplex: true,
    ordered: true,
    remote: true,
    maxFrameBytes: limits.maxFrameBytes,
  };

  async function connect({ signal }: WaitOptions = {}): Promise<Channel> {
    signal?.throwIfAborted();
    const socket = new WebSocket(url, subprotocols(token));
    const [channel, wire] = wrap(socket, url.host, limits, false);
    const opened = Promise.withResolvers<boolean>();
    const giveUp = new AbortController();
    const abort = () => giveUp.abort();
    giveUp.signal.addEventListener("abort", () => opened.resolve(false), { once: true });
    signal?.addEventListener("abort", abort, { once: true });
    const timer = setTimeout(abort, connectTimeoutMs);
    socket.addEventListener("open", () => {
      // Here and not after the await, as the first frames may come before that goes on.
      wire.start();
      opened.resolve(true);
    });
    channel.closed.then(() => opened.resolve(false));
    try {
      if (await opened.promise) return channel;
      const refusal = await askWhy(url, token, giveUp.signal);
      await channel.close();
      signal?.throwIfAborted();
      const why = giveUp.signal.aborted
        ? `no answer within ${connectTimeoutMs} ms`
        : refusal ?? (wire.failure || "it cannot be reached");
      throw new ChannelClosedError(`Cannot connect to ${url.href}: ${why}`);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  return { name: "websocket", flags, connect };
}

/** Asks a listener in plain HTTP why it refused, as a WebSocket does not tell; `undefined` if it does not say. */
async function askWhy(
  url: URL,
  token: string | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  if (signal.aborted) return undefined;
  try {
    const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const response = await fetch(endpoint(url, "http"), { headers, signal, redirect: "manual" });
    await response.body?.cancel();
    if (response.status === 401) return token === undefined ? "a token is required" : "the token was refused";
    if (response.status === 503) return "it takes on no more channels now";
    return response.ok || response.status === 426 ? undefined : `the answer was HTTP ${response.status}`;
  } catch {
    return undefined;
  }
}

/**
 * Makes the accepting side. It serves nothing itself: mount `handle` in a server.
 *
 * @example Usage
 * ```ts
 * import { requireToken, webSocketListener } from "@edgetuner/transport";
 *
 * await using listener = webSocketListener({ authorize: requireToken("secret") });
 * await using _server = Deno.serve(
 *   { port: 0, onListen() {} },
 *   (request, { remoteAddr }) => listener.handle(request, { peer: remoteAddr.hostname }),
 * );
 * ```
 *
 * @param options Authorisation and limits.
 * @returns The listener.
 * @throws {RangeError} If an option is out of range.
 */
export function webSocketListener(options: WebSocketListenerOptions = {}): WebSocketListener {
  const { authorize } = options;
  const limits = readLimits(options);
  const backlog = new Backlog(count("maxChannels", options.maxChannels, 256));
  const idleTimeout = amount("idleTimeoutSeconds", options.idleTimeoutSeconds, 30, 0);

  async function handle(
    request: Request,
    { peer = "websocket peer" }: HandleOptions = {},
  ): Promise<Response> {
    if (authorize && !await authorize(request)) {
      return refusal(401, "A token is required", { "www-authenticate": "Bearer" });
    }
    if (backlog.refusal) return refusal(503, backlog.refusal);
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
      return refusal(426, "This address speaks WebSocket", { upgrade: "websocket", connection: "upgrade" });
    }
    if (!offeredSubprotocols(request).includes(SUBPROTOCOL)) {
      return refusal(400, `The subprotocol must be "${SUBPROTOCOL}"`);
    }
    let upgrade: Deno.WebSocketUpgrade;
    try {
      upgrade = Deno.upgradeWebSocket(request, { protocol: SUBPROTOCOL, idleTimeout });
    } catch (error) {
      return refusal(400, error instanceof Error ? error.message : "The handshake is malformed");
    }
    const { socket, response } = upgrade;
    const [channel, wire] = wrap(socket, peer, limits, true);
    socket.addEventListener("open", () => {
      const refusal = backlog.refusal;
      if (refusal) {
        channel.close(refusal);
      } else {
        wire.start();
        backlog.offer(channel);
      }
    }, { once: true });
    return response;
  }

  return {
    handle,
    accept: (options) => backlog.accept(options),
    [Symbol.asyncDispose]: () => backlog[Symbol.asyncDispose](),
  };
}
