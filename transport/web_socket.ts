/**
 * A transport over WebSocket. The connecting side runs in Deno and in browsers, the accepting
 * side in Deno.
 *
 * The protocol, for peers written in other languages: the subprotocol is `edgetuner.v2`. A second subprotocol names
 * the session: `edgetuner.open.NAME` opens one, where NAME are 32 random bytes as base64url that the client chose, and
 * `edgetuner.go-on.NAME` goes on with it over another connection. Whoever knows the name owns the session.
 *
 * - Binary messages are those of the session: numbered parts of frames, acknowledgements, grants and farewells, see
 *   `_packet.ts`. The first on each connection says what the side has; what the other one has not is sent again then,
 *   with the numbers that it had. What comes twice is skipped. Frames are cut so that a message has at most 256 KiB:
 *   the other side hears something often, however slow the link is.
 * - A grant: the other side may send until the sum of `bytes + 64` over its frames since the start of the session
 *   reaches it; the frame that crosses the line is still allowed.
 * - The one text message, `alive N`, comes first on each connection: the sender gives the connection up if it hears
 *   nothing for N milliseconds. Each side sends a message without a part when it has sent nothing for a third of the N
 *   that it was told. Whoever gets one and has sent nothing for half of that time answers with one, as browsers slow
 *   the timers of hidden pages down.
 * - A connection that ends without a farewell of the session is made anew by the client. A server that does not know
 *   the session closes with code 4004. The session ends where there is no connection for a while, see
 *   `retryTimeoutMs` and `goneTimeoutMs`.
 *
 * A token travels as a third subprotocol, `edgetuner.token.` followed by base64url of its UTF-8
 * bytes, since browsers let a page set no other header. TLS hides it like a header; servers
 * never send it back.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  HandshakeError,
  type Listener,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Backlog } from "./_backlog.ts";
import { type InvitedDevice, noteInvited } from "./_invited.ts";
import { count, endpoint, isForGood, milliseconds } from "./_options.ts";
import {
  CLOSE,
  giveUp,
  type Limits,
  readLimits,
  type SocketLink,
  socketSession,
  type WebSocketOptions,
} from "./_socket_link.ts";
import type { StreamWire } from "./_stream_wire.ts";
import { trusting, trustingSocket } from "./_trust.ts";
import { detailOf, refusal } from "./problem.ts";
import {
  type Authorize,
  checkToken,
  newSession,
  offeredSession,
  offeredSubprotocols,
  type SessionOffer,
  SUBPROTOCOL,
  subprotocols,
} from "./token.ts";
import { upgradeOffer } from "./upgrade.ts";

export type { WebSocketOptions } from "./_socket_link.ts";

/** Options of {@linkcode webSocketTransport}. */
export interface WebSocketTransportOptions extends WebSocketOptions {
  /** Address of the listener; `http` and `https` are understood as `ws` and `wss`. */
  readonly url: string | URL;
  /** Certificates to trust beside those that the system does, as PEM; in Deno, not in browsers. */
  readonly caCerts?: readonly string[];
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
}

/** What a listener may be told about a request. */
export interface HandleOptions {
  /** Name of the peer in messages to people, such as its address. */
  readonly peer?: string;
  /** The device that the channel is opened for, if it was invited. */
  readonly device?: InvitedDevice | undefined;
}

/** The accepting side of a WebSocket transport, returned by {@linkcode webSocketListener}. */
export interface WebSocketListener extends Listener {
  /**
   * Answers one request; mount it on a path of any fetch handler.
   *
   * Answers 401 if `authorize` refuses, 503 if no channel can be taken on, 426 if the request is not
   * a WebSocket handshake, 400 if the handshake is malformed or does not offer the subprotocol and a session, 409 if
   * the session that it opens exists.
   *
   * @param request The request as it came in.
   * @param options What is known about the peer.
   * @returns The response to send back.
   */
  handle(request: Request, options?: HandleOptions): Promise<Response>;
}

/**
 * Makes the connecting side.
 *
 * Where the peer is gone without a word, the socket is dropped within a third of a second after the channel has ended,
 * so that it holds no process. WebSockets have no such way, and Deno has no public one: what it has inside is used (in
 * Deno 2.9; a test ends a real process). Where a runtime has none, the socket ends when the system gives the connection
 * up, after minutes; a program that is to end before calls `Deno.exit`.
 *
 * @category Transports
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
 * @throws {RangeError} If an option is out of range, or `idleTimeoutMs` is below twice `pingIntervalMs`.
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
    const way: Way = { url, token, connectTimeoutMs, caCerts: options.caCerts };
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const first = await new Connector(way, limits).open(controller.signal);
      if ("send" in first) return first;
      signal?.throwIfAborted();
      const { isLate, failure } = first;
      const refusal = isLate ? undefined : await askWhy(way, controller.signal);
      signal?.throwIfAborted();
      if (refusal !== undefined) {
        const { why, forGood } = refusal;
        throw new (forGood ? HandshakeError : ChannelClosedError)(`Cannot connect to ${url.href}: ${why}`);
      }
      const why = isLate ? `no answer within ${connectTimeoutMs} ms` : failure || "it cannot be reached";
      throw new ChannelClosedError(`Cannot connect to ${url.href}: ${why}`);
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  return { name: "websocket", flags, connect };
}

/** How to reach a listener. */
interface Way {
  readonly url: URL;
  readonly token: string | undefined;
  readonly connectTimeoutMs: number;
  readonly caCerts: readonly string[] | undefined;
}

/** An attempt that came to nothing. */
interface Failed {
  /** True if there was no answer in time. */
  readonly isLate: boolean;
  /** What the socket said. */
  readonly failure: string;
}

/** One attempt to open a socket. */
interface Attempt extends Way {
  readonly offer: SessionOffer;
  readonly signal: AbortSignal;
  /** Called as it opens, before anything is received. */
  readonly onOpen: (socket: WebSocket) => void;
}

/** Opens a socket for a session; `null` if that worked. */
async function openSocket(
  { url, token, caCerts, connectTimeoutMs, ...attempt }: Attempt,
): Promise<Failed | null> {
  const { offer, signal, onOpen } = attempt;
  const protocols = subprotocols(token, offer);
  const socket = trustingSocket(url, caCerts, protocols);
  const { promise, resolve } = Promise.withResolvers<"open" | "failed" | "late">();
  let failure = "";
  let isOver = false;
  const abort = () => resolve("late");
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  const timer = setTimeout(abort, connectTimeoutMs);
  socket.addEventListener("error", (event) => {
    if ("message" in event && typeof event.message === "string") failure = event.message;
  });
  socket.addEventListener("close", () => resolve("failed"), { once: true });
  socket.addEventListener("open", () => {
    if (isOver) return;
    onOpen(socket);
    resolve("open");
  }, { once: true });
  const what = await promise;
  isOver = true;
  clearTimeout(timer);
  signal.removeEventListener("abort", abort);
  if (what === "late") await giveUp(socket, CLOSE.done, "");
  return what === "open" ? null : { isLate: what === "late", failure };
}

/** First and longest pause between two attempts to make a connection anew, in milliseconds. */
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1000;

/** Makes the connections of a session, one after another. */
class Connector {
  readonly #way: Way;
  readonly #session = newSession();
  readonly #limits: Limits;
  readonly #over = new AbortController();
  #opened: ReturnType<typeof socketSession> | undefined;

  constructor(way: Way, limits: Limits) {
    this.#way = way;
    this.#limits = limits;
  }

  /** Opens the first; the channel, or why not. */
  async open(signal: AbortSignal): Promise<Channel | Failed> {
    const failed = await openSocket({
      ...this.#way,
      offer: { session: this.#session, goesOn: false },
      signal,
      onOpen: (socket) => {
        this.#opened = socketSession(socket, {
          peer: this.#way.url.host,
          limits: this.#limits,
          isAccepting: false,
          reconnect: () => void this.#again(),
          onRelease: () => this.#over.abort(),
        });
      },
    });
    return failed ?? this.#opened!.channel;
  }

  async #again(): Promise<void> {
    const { signal } = this.#over;
    const { link, wire } = this.#opened!;
    for (let pauseMs = RETRY_FIRST_MS; !signal.aborted; pauseMs = Math.min(2 * pauseMs, RETRY_MAX_MS)) {
      const failed = await openSocket({
        ...this.#way,
        offer: { session: this.#session, goesOn: true },
        signal,
        onOpen: (socket) => {
          link.attach(socket);
          wire.goOn();
        },
      });
      if (failed === null) return;
      await pause(pauseMs * (0.5 + Math.random()), signal);
    }
  }
}

/** Waits, unless the signal aborts. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = () => resolve();
  const timer = setTimeout(end, ms);
  signal.addEventListener("abort", end, { once: true });
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", end);
}

/** Why a listener refused. */
interface Refusal {
  readonly why: string;
  /** True if it will say the same the next time. */
  readonly forGood: boolean;
}

/** Asks a listener in plain HTTP why it refused, as a WebSocket does not tell; `undefined` if it does not say. */
async function askWhy(
  { url, token, caCerts, connectTimeoutMs }: Way,
  signal: AbortSignal,
): Promise<Refusal | undefined> {
  if (signal.aborted) return undefined;
  using client = trusting(caCerts);
  const late = new AbortController();
  const abort = () => late.abort();
  const timer = setTimeout(abort, connectTimeoutMs);
  signal.addEventListener("abort", abort, { once: true });
  try {
    const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const response = await fetch(endpoint(url, "http"), {
      headers,
      signal: late.signal,
      redirect: "manual",
      ...(client && { client }),
    });
    const { status } = response;
    const forGood = isForGood(status);
    if (status === 403 || status === 421) return { why: detailOf(await response.text()), forGood };
    await response.body?.cancel();
    if (status === 401) {
      return { why: token === undefined ? "a token is required" : "the token was refused", forGood };
    }
    if (status === 503) return { why: "it takes on no more channels now", forGood };
    return response.ok || status === 426 ? undefined : { why: `the answer was HTTP ${status}`, forGood };
  } catch {
    return undefined;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Makes the accepting side. It serves nothing itself: mount `handle` in a server, such as `serve` of
 * `@edgetuner/edgetuner/server`, which limits connections.
 *
 * @category Transports
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
  const sessions = new SocketSessions(options);
  // Its methods may be handed on alone.
  return {
    handle: (request, options) => sessions.handle(request, options),
    accept: (options) => sessions.accept(options),
    [Symbol.asyncDispose]: () => sessions[Symbol.asyncDispose](),
  };
}

/** The sessions of an address. */
class SocketSessions implements WebSocketListener {
  readonly #authorize: Authorize | undefined;
  readonly #limits: Limits;
  readonly #backlog: Backlog;
  readonly #sessions = new Map<string, { readonly link: SocketLink; readonly wire: StreamWire }>();

  constructor(options: WebSocketListenerOptions) {
    this.#authorize = options.authorize;
    this.#limits = readLimits(options);
    this.#backlog = new Backlog(count("maxChannels", options.maxChannels, 256));
  }

  async handle(
    request: Request,
    { peer = "websocket peer", device }: HandleOptions = {},
  ): Promise<Response> {
    if (this.#authorize && !await this.#authorize(request)) {
      return refusal(401, "A token is required", { "www-authenticate": "Bearer" });
    }
    const offer = offeredSession(request);
    const full = offer?.goesOn === true ? undefined : this.#backlog.refusal;
    if (full) return refusal(503, full);
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
      return refusal(426, "This address speaks WebSocket", { upgrade: "websocket", connection: "upgrade" });
    }
    if (!offeredSubprotocols(request).includes(SUBPROTOCOL)) {
      return refusal(400, `The subprotocol must be "${SUBPROTOCOL}"`);
    }
    if (offer === undefined) return refusal(400, "A subprotocol must name the session");
    if (!offer.goesOn && this.#sessions.has(offer.session)) return refusal(409, "The session exists already");
    const upgraded = this.#upgrade(request);
    if (upgraded instanceof Response) return upgraded;
    const { socket, response } = upgraded;
    socket.addEventListener("open", () => this.#take(socket, offer, { peer, device }), { once: true });
    return response;
  }

  accept(options?: WaitOptions): Promise<Channel | null> {
    return this.#backlog.accept(options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#backlog[Symbol.asyncDispose]();
  }

  #upgrade(request: Request): Deno.WebSocketUpgrade | Response {
    const taken = upgradeOffer(request);
    try {
      const upgrade = Deno.upgradeWebSocket(request, {
        protocol: SUBPROTOCOL,
        // Signs of life end a silent connection first; this gives the socket below back.
        idleTimeout: Math.ceil(2 * this.#limits.idleTimeoutMs / 1000) + 1,
        ...(taken && { socket: taken.socket, head: taken.head }),
      });
      taken?.taken(upgrade.socket);
      return upgrade;
    } catch (error) {
      return refusal(400, error instanceof Error ? error.message : "The handshake is malformed");
    }
  }

  #take(
    socket: WebSocket,
    { session, goesOn }: SessionOffer,
    { peer, device }: { readonly peer: string; readonly device: InvitedDevice | undefined },
  ): void {
    const known = this.#sessions.get(session);
    if (goesOn) {
      // A socket tells a page what became of it, but no HTTP status.
      if (known === undefined) return void giveUp(socket, CLOSE.noSession, "The session is over, or unknown");
      known.link.attach(socket);
      return known.wire.goOn();
    }
    const refusal = known === undefined ? this.#backlog.refusal : "The session exists already";
    if (refusal) return void giveUp(socket, CLOSE.noSession, refusal);
    const { channel, ...opened } = socketSession(socket, {
      peer,
      limits: this.#limits,
      isAccepting: true,
      onRelease: () => void this.#sessions.delete(session),
    });
    this.#sessions.set(session, opened);
    noteInvited(channel, device);
    this.#backlog.offer(channel);
  }
}
