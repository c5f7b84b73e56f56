/**
 * The accepting side of the HTTP transport.
 *
 * @module
 */

import type { Channel, Listener, WaitOptions } from "@edgetuner/core/contracts";
import { Backlog } from "./_backlog.ts";
import { noteInvited } from "./_invited.ts";
import { HEADER, maxBodyBytes, parseClose, readBody, readCount, splitFrames } from "./_http_body.ts";
import { type HttpOptions, type Limits, readLimits } from "./_http_common.ts";
import { HttpSession } from "./_http_session.ts";
import { count, milliseconds } from "./_options.ts";
import { refusal } from "./problem.ts";
import type { Authorize } from "./token.ts";
import type { HandleOptions } from "./web_socket.ts";
import { type Frame, WireChannel } from "./_wire_channel.ts";

/** Options of {@linkcode httpListener}. */
export interface HttpListenerOptions extends HttpOptions {
  /** Decides on every request; everyone may use the listener if absent. */
  readonly authorize?: Authorize;
  /**
   * Largest number of channels that are open at the same time.
   *
   * @default {256}
   */
  readonly maxChannels?: number;
  /**
   * Time in milliseconds that a request for frames is held when there are none.
   *
   * @default {20000}
   */
  readonly pollTimeoutMs?: number;
  /**
   * Time in milliseconds without any sign of the peer after which a channel ends; must be above
   * `pollTimeoutMs`.
   *
   * @default {60000}
   */
  readonly idleTimeoutMs?: number;
}

/** The accepting side of the HTTP transport, returned by {@linkcode httpListener}. */
export interface HttpListener extends Listener {
  /**
   * Answers one request; mount it on a path of any fetch handler.
   *
   * Answers 401 if `authorize` refuses, 404 for an unknown session, 405 for another method than GET and
   * POST, 413 if a body is too large, 409 and 400 if the protocol is broken, 503 if no channel can be
   * taken on.
   *
   * @param request The request as it came in.
   * @param options What is known about the peer.
   * @returns The response to send back.
   */
  handle(request: Request, options?: HandleOptions): Promise<Response>;
}

/** Names that `httpTransport` makes; shorter ones could be guessed. */
const SESSION_PATTERN = /^[\w-]{43}$/;

/** A repeated request may meet the one it replaces; more at once would only fill the memory. */
const MAX_BODIES_AT_ONCE = 2;

/** The sessions of an address. */
class HttpSessions implements HttpListener {
  readonly #authorize: Authorize | undefined;
  readonly #limits: Limits;
  readonly #maxChannels: number;
  readonly #backlog: Backlog;
  readonly #pollTimeoutMs: number;
  readonly #idleTimeoutMs: number;
  readonly #sessions = new Map<string, HttpSession>();
  #sweeper: ReturnType<typeof setTimeout> | undefined;
  #disposed = false;

  constructor(options: HttpListenerOptions) {
    this.#authorize = options.authorize;
    this.#limits = readLimits(options);
    this.#maxChannels = count("maxChannels", options.maxChannels, 256);
    this.#backlog = new Backlog(this.#maxChannels);
    const pollTimeoutMs = milliseconds("pollTimeoutMs", options.pollTimeoutMs, 20_000);
    const idleTimeoutMs = milliseconds("idleTimeoutMs", options.idleTimeoutMs, 60_000);
    if (idleTimeoutMs <= pollTimeoutMs) {
      throw new RangeError(
        `Cannot set up the transport as 'idleTimeoutMs' must be above 'pollTimeoutMs': ` +
          `current values are ${idleTimeoutMs} and ${pollTimeoutMs}`,
      );
    }
    this.#pollTimeoutMs = pollTimeoutMs;
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  async handle(request: Request, { peer = "http peer", device }: HandleOptions = {}): Promise<Response> {
    if (this.#authorize && !await this.#authorize(request)) {
      return refusal(401, "A token is required", { "www-authenticate": "Bearer" });
    }
    const { method, headers } = request;
    if (method !== "GET" && method !== "POST") {
      return refusal(405, "The method must be GET or POST", { allow: "GET, POST" });
    }
    const id = headers.get(HEADER.session) ?? "";
    if (method === "POST" && headers.has(HEADER.open)) return this.#open(id, request, { peer, device });
    const session = this.#sessions.get(id);
    if (!session) return refusal(404, "There is no such session");
    session.touch();
    if (method === "POST") return await this.#post(id, session, request);
    const ack = readCount(headers, HEADER.ack);
    return ack === undefined ? refusal(400, "The request is malformed") : await session.get(request, ack);
  }

  /** Waits for the next channel. */
  accept(options?: WaitOptions): Promise<Channel | null> {
    return this.#backlog.accept(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#backlog[Symbol.asyncDispose]();
    for (const [id, session] of this.#sessions) {
      if (session.over) this.#remove(id);
    }
  }

  #sweep(): void {
    this.#sweeper = undefined;
    for (const [id, session] of this.#sessions) {
      if (performance.now() - session.lastSeen < this.#idleTimeoutMs) continue;
      if (!session.over) session.fail(`The peer was silent for ${this.#idleTimeoutMs} ms`);
      this.#remove(id);
    }
    this.#schedule();
  }

  #schedule(): void {
    if (this.#sessions.size > 0) {
      this.#sweeper ??= setTimeout(() => this.#sweep(), Math.max(1, this.#idleTimeoutMs / 4));
    }
  }

  #remove(id: string): void {
    this.#sessions.delete(id);
    if (this.#sessions.size > 0) return;
    clearTimeout(this.#sweeper);
    this.#sweeper = undefined;
  }

  #open(
    id: string,
    request: Request,
    { peer, device }: { readonly peer: string } & Pick<HandleOptions, "device">,
  ): Response {
    if (this.#backlog.refusal) return refusal(503, this.#backlog.refusal);
    const grant = readCount(request.headers, HEADER.grant);
    if (!SESSION_PATTERN.test(id) || grant === undefined) return refusal(400, "The request is malformed");
    if (this.#sessions.has(id)) return refusal(409, "The session exists already");
    // Sessions that are over stay for a while, and must not pile up either.
    if (this.#sessions.size >= 2 * this.#maxChannels) {
      return refusal(503, "Too many sessions ended recently");
    }
    let session: HttpSession | undefined;
    const channel = new WireChannel(
      { peer, maxFrameBytes: this.#limits.maxFrameBytes },
      (channel) => session = new HttpSession(channel, this.#limits, this.#pollTimeoutMs, grant),
    );
    this.#sessions.set(id, session!);
    // Afterwards it is kept for a peer that missed the answer which told it of the end.
    channel.closed.then(() => this.#disposed && this.#remove(id));
    this.#schedule();
    noteInvited(channel, device);
    this.#backlog.offer(channel);
    return new Response("The session is open\n", {
      headers: {
        "cache-control": "no-store",
        [HEADER.grant]: session!.grant(),
        [HEADER.maxFrame]: String(this.#limits.maxFrameBytes),
        [HEADER.idle]: String(this.#idleTimeoutMs),
      },
    });
  }

  async #post(id: string, session: HttpSession, request: Request): Promise<Response> {
    const seq = readCount(request.headers, HEADER.seq);
    if (seq === undefined) return refusal(400, "The request is malformed");
    if (session.reading >= MAX_BODIES_AT_ONCE) return refusal(429, "An earlier request is still being read");
    const maxFrameBytes = Math.min(this.#limits.maxFrameBytes, session.maxFrameBytes);
    const maxBytes = maxBodyBytes(maxFrameBytes);
    session.reading++;
    let body: Frame | undefined;
    try {
      body = await readBody(request, {
        maxBytes,
        timeoutMs: this.#idleTimeoutMs,
        signal: session.ended,
        progress: () => session.touch(),
      });
    } catch {
      return refusal(408, "The body did not arrive");
    } finally {
      session.reading--;
    }
    if (!body) return refusal(413, `A body must not exceed ${maxBytes} bytes`);
    const frames = splitFrames(body, maxFrameBytes);
    if (!frames) return refusal(400, "The body is malformed");
    const response = session.post(request, seq, frames);
    if (response.ok && parseClose(request.headers)) this.#remove(id);
    return response;
  }
}

/**
 * Makes the accepting side. It serves nothing itself: mount `handle` in a server, such as `serve` of
 * `@edgetuner/edgetuner/server`, which limits connections. Close channels before
 * the server is shut down, as it waits for requests that are held.
 *
 * @category Transports
 *
 * @example Usage
 * ```ts
 * import { httpListener, requireToken } from "@edgetuner/transport";
 *
 * await using listener = httpListener({ authorize: requireToken("secret"), maxFrameBytes: 2 ** 20 });
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
export function httpListener(options: HttpListenerOptions = {}): HttpListener {
  const sessions = new HttpSessions(options);
  // Its methods may be handed on alone.
  return {
    handle: (request, options) => sessions.handle(request, options),
    accept: (options) => sessions.accept(options),
    [Symbol.asyncDispose]: () => sessions[Symbol.asyncDispose](),
  };
}
