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
 *   above 256 KiB: the other side hears something often, however slow the link is.
 * - `alive N`: a sign of life. The sender ends the connection if it hears nothing for N milliseconds. Sent by
 *   both sides right after opening, then whenever a side has sent nothing for a while (a third of the N that it was
 *   told at most). Whoever gets one and has sent nothing for half of that time answers with one, as browsers slow
 *   the timers of hidden pages down.
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
  HandshakeError,
  type Listener,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Backlog } from "./_backlog.ts";
import { type InvitedDevice, noteInvited } from "./_invited.ts";
import { count, endpoint, isForGood, milliseconds } from "./_options.ts";
import { readLimits, type WebSocketOptions, wrap } from "./_web_socket_wire.ts";
import { trusting } from "./_trust.ts";
import { detailOf, refusal } from "./problem.ts";
import { type Authorize, checkToken, offeredSubprotocols, SUBPROTOCOL, subprotocols } from "./token.ts";
import { upgradeOffer } from "./upgrade.ts";

export type { WebSocketOptions } from "./_web_socket_wire.ts";

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
   * a WebSocket handshake, 400 if the handshake is malformed or does not offer the subprotocol.
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
    const protocols = subprotocols(token);
    using client = trusting(options.caCerts);
    const socket = new WebSocket(url, client === null ? protocols : withClient(protocols, client));
    const [channel, wire] = wrap(socket, { peer: url.host, limits, answersAll: false });
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
      const refusal = await askWhy(url, { token, client }, giveUp.signal);
      // What has not answered until now need not answer the farewell either.
      await channel.close("", { signal: AbortSignal.abort() });
      signal?.throwIfAborted();
      if (refusal !== undefined && !giveUp.signal.aborted) {
        const { why, forGood } = refusal;
        throw new (forGood ? HandshakeError : ChannelClosedError)(`Cannot connect to ${url.href}: ${why}`);
      }
      const why = giveUp.signal.aborted
        ? `no answer within ${connectTimeoutMs} ms`
        : wire.failure || "it cannot be reached";
      throw new ChannelClosedError(`Cannot connect to ${url.href}: ${why}`);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  return { name: "websocket", flags, connect };
}

/** The second argument of a WebSocket in Deno; a page has no type for it, and never comes here. */
function withClient(protocols: string[], client: Deno.HttpClient): string[] {
  return { protocols, client } as unknown as string[];
}

/** Why a listener refused. */
interface Refusal {
  readonly why: string;
  /** True if it will say the same the next time. */
  readonly forGood: boolean;
}

/** Asks a listener in plain HTTP why it refused, as a WebSocket does not tell; `undefined` if it does not say. */
async function askWhy(
  url: URL,
  { token, client }: { readonly token: string | undefined; readonly client: Deno.HttpClient | null },
  signal: AbortSignal,
): Promise<Refusal | undefined> {
  if (signal.aborted) return undefined;
  try {
    const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const response = await fetch(endpoint(url, "http"), {
      headers,
      signal,
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
  const { authorize } = options;
  const limits = readLimits(options);
  const backlog = new Backlog(count("maxChannels", options.maxChannels, 256));
  // Signs of life end a silent channel first; this gives the socket below back.
  const idleTimeout = Math.ceil(2 * limits.idleTimeoutMs / 1000) + 1;

  async function handle(
    request: Request,
    { peer = "websocket peer", device }: HandleOptions = {},
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
    const offer = upgradeOffer(request);
    let upgrade: Deno.WebSocketUpgrade;
    try {
      upgrade = Deno.upgradeWebSocket(request, {
        protocol: SUBPROTOCOL,
        idleTimeout,
        ...(offer && { socket: offer.socket, head: offer.head }),
      });
    } catch (error) {
      return refusal(400, error instanceof Error ? error.message : "The handshake is malformed");
    }
    const { socket, response } = upgrade;
    offer?.taken(socket);
    const [channel, wire] = wrap(socket, { peer, limits, answersAll: true });
    socket.addEventListener("open", () => {
      const refusal = backlog.refusal;
      if (refusal) {
        channel.close(refusal);
      } else {
        wire.start();
        noteInvited(channel, device);
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
