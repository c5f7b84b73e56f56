/**
 * Serves a fetch handler on a port, and stays up whoever connects: connections are counted, headers and idle
 * sockets have a time limit, and running out of files ends nothing.
 *
 * `Deno.serve` has none of these limits, so this stands on `node:http`.
 *
 * @module
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { Server as NetServer, type Socket } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { ListenError } from "@edgetuner/core/contracts";
import { count, milliseconds } from "../_options.ts";
import { refusal } from "../problem.ts";
import type { Authorize } from "../token.ts";
import { offerUpgrade } from "../upgrade.ts";
import { TlsFront, type TlsOptions } from "./_tls_front.ts";
import { type Connection, Connections, defaultLimits, openFilesLimit } from "./_connections.ts";
import { isAccepting, writeResponse } from "./_sockets.ts";

export type { TlsOptions } from "./_tls_front.ts";

/** What answers requests, such as a Hono app. */
export interface FetchHandler {
  /**
   * Answers one request.
   *
   * @param request The request as it came in.
   * @param info What is known of the connection.
   */
  fetch(request: Request, info: ConnectionInfo): Response | Promise<Response>;
}

/** What is known of the connection of a request; what `Deno.serve` tells as well. */
export interface ConnectionInfo {
  /** The other end. */
  readonly remoteAddr: { readonly transport: "tcp"; readonly hostname: string; readonly port: number };
  /** True if it came in over TLS. @default {false} */
  readonly isTls?: boolean;
}

/** Options of {@linkcode serve}. */
export interface ServeOptions {
  /** Serve TLS with this certificate and key, as PEM; plain HTTP and WebSocket if absent. */
  readonly tls?: TlsOptions;
  /** Address to listen on. @default {"127.0.0.1"} */
  readonly hostname?: string;
  /** Port; 0 for any free one. @default {0} */
  readonly port?: number;
  /**
   * Tells requests of those who know a token. Their connections stay whoever else connects; others give way to
   * newer ones where there are too many.
   *
   * @default {a WebSocket that was answered counts as known, and nothing else}
   */
  readonly authorize?: Authorize;
  /** Most connections. @default {three quarters of the files that the process may open, and at most 4096} */
  readonly maxConnections?: number;
  /** Most connections that have not shown a token. @default {half of maxConnections} */
  readonly maxStrangers?: number;
  /** Most connections from one address that have not shown a token. @default {half of maxStrangers, at most 128} */
  readonly maxStrangersPerAddress?: number;
  /** Longest time in milliseconds for the headers of a request. @default {10000} */
  readonly headerTimeoutMs?: number;
  /** Longest time in milliseconds for a whole request, its body too. @default {600000} */
  readonly requestTimeoutMs?: number;
  /** Longest time in milliseconds in which nothing is received or sent; not for WebSockets. @default {120000} */
  readonly idleTimeoutMs?: number;
  /** Most bytes of the headers of a request. @default {16384} */
  readonly maxHeaderBytes?: number;
  /** How often the server looks whether it still accepts connections, in milliseconds. @default {2000} */
  readonly checkIntervalMs?: number;
}

/** A server that runs, see {@linkcode serve}. */
export interface Serving extends AsyncDisposable {
  /** Address that it listens on. */
  readonly hostname: string;
  /** Port that it listens on. */
  readonly port: number;
  /** Connections now, those that have not shown a token, and how many were refused so far. */
  readonly connections: { readonly all: number; readonly strangers: number; readonly refused: number };
  /**
   * Stops listening, waits for requests that are being answered, and closes all connections.
   *
   * @param timeoutMs Longest wait in milliseconds. @default {5000}
   */
  shutdown(timeoutMs?: number): Promise<void>;
}

/** Seconds after which a client that was refused may try again. */
const RETRY_AFTER = { "retry-after": "5", connection: "close" };
/** Connections that are refused wait so long for a request to answer. */
const REFUSAL_MS = 1000;
/** Of more of them at once the oldest is closed without an answer. */
const MAX_REFUSALS = 16;

/**
 * Serves a fetch handler. WebSockets are those of {@linkcode webSocketListener}, at full speed.
 *
 * Where there are too many connections, the oldest that has not sent a request for a second gives way; if there
 * is none, the new one is answered with 503 and `Retry-After`.
 *
 * @example Usage
 * ```ts
 * import { serve } from "@edgetuner/transport/server";
 * import { requireToken, webSocketListener } from "@edgetuner/transport";
 *
 * await using listener = webSocketListener({ authorize: requireToken("secret") });
 * await using server = await serve({ fetch: (request) => listener.handle(request) });
 * console.assert(server.port > 0);
 * ```
 *
 * @param app What answers requests.
 * @param options Address and limits.
 * @returns The server, once it listens.
 * @throws {RangeError} If an option is out of range.
 * @throws {ListenError} If the address is in use or not of this machine, or listening is not allowed.
 */
export async function serve(app: FetchHandler, options: ServeOptions = {}): Promise<Serving> {
  const server = new Serve(app, options);
  await server.listen();
  return server;
}

class Serve implements Serving {
  readonly hostname: string;
  readonly #app: FetchHandler;
  readonly #authorize: Authorize | undefined;
  readonly #checkIntervalMs: number;
  readonly #tls: TlsOptions | undefined;
  readonly #maxConnections: number;
  /** Where the server itself listens. */
  #inner: { readonly hostname: string; port: number };
  #front: TlsFront | undefined;
  readonly #server: Server;
  readonly #connections: Connections;
  /** Sockets of connections that are refused. */
  readonly #refusing = new Set<Socket>();
  /** Answers after which the connection ends. */
  readonly #turnedAway = new WeakSet<ServerResponse>();
  #port: number;
  #refused = 0;
  /** Connections that came, whether or not they were taken on. */
  #came = 0;
  #checking: ReturnType<typeof setTimeout> | undefined;
  #closing = false;
  #changed: PromiseWithResolvers<void> = Promise.withResolvers();

  constructor(app: FetchHandler, options: ServeOptions) {
    this.#app = app;
    this.#authorize = options.authorize;
    this.hostname = options.hostname ?? "127.0.0.1";
    this.#port = options.port ?? 0;
    if (!Number.isInteger(this.#port) || this.#port < 0 || this.#port > 65_535) {
      throw new RangeError(`Cannot serve as 'port' must be from 0 to 65535: current value is ${this.#port}`);
    }
    this.#tls = options.tls;
    this.#inner = options.tls
      ? { hostname: "127.0.0.1", port: 0 }
      : { hostname: this.hostname, port: this.#port };
    this.#checkIntervalMs = milliseconds("checkIntervalMs", options.checkIntervalMs, 2000);
    const usual = defaultLimits(openFilesLimit());
    const maxConnections = count("maxConnections", options.maxConnections, usual.maxConnections);
    this.#maxConnections = maxConnections;
    const half = (of: number) => Math.ceil(of / 2);
    const maxStrangers = count("maxStrangers", options.maxStrangers, half(maxConnections));
    const perAddress = Math.min(128, half(maxStrangers));
    this.#connections = new Connections({
      maxConnections,
      maxStrangers,
      maxStrangersPerAddress: count("maxStrangersPerAddress", options.maxStrangersPerAddress, perAddress),
    });
    const headersTimeout = milliseconds("headerTimeoutMs", options.headerTimeoutMs, 10_000);
    const idle = milliseconds("idleTimeoutMs", options.idleTimeoutMs, 120_000);
    this.#server = createServer({
      headersTimeout,
      requestTimeout: Math.max(
        headersTimeout,
        milliseconds("requestTimeoutMs", options.requestTimeoutMs, 600_000),
      ),
      keepAliveTimeout: idle,
      connectionsCheckingInterval: Math.max(1, Math.min(1000, Math.floor(headersTimeout / 4))),
      maxHeaderSize: count("maxHeaderBytes", options.maxHeaderBytes, 16_384),
      noDelay: true,
    });
    this.#server.timeout = idle;
    this.#server.prependListener("connection", (socket: Socket) => this.#take(socket));
    const answer = getRequestListener(async (request, { incoming, outgoing }) => {
      const { socket } = incoming;
      const response = await this.#fetch(request, socket);
      // A stranger that is turned away keeps no place.
      const stays = response.status < 400 || this.#connections.of(socket)?.known === true;
      if (!stays) this.#turnedAway.add(outgoing as ServerResponse);
      return stays ? response : withClose(response);
    }, {
      hostname: "edgetuner.invalid",
      overrideGlobalObjects: false,
    });
    this.#server.on("request", (request, response) => void this.#answer(request, response, answer));
    this.#server.on(
      "upgrade",
      (request, socket, head) => void this.#upgrade(request, socket as Socket, head),
    );
    this.#server.on("clientError", (_error, socket) => void socket.destroy());
  }

  get port(): number {
    return this.#port;
  }

  get connections(): Serving["connections"] {
    const { size: all, strangers } = this.#connections;
    return { all, strangers, refused: this.#refused };
  }

  /** Begins to listen. */
  async listen(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#server.once("error", reject);
    this.#server.once("listening", resolve);
    try {
      this.#server.listen(this.#inner.port, this.#inner.hostname);
      await promise;
    } catch (cause) {
      throw new ListenError(this.hostname, this.#port, cause as Error);
    }
    this.#server.off("error", reject);
    // An error of a connection, or of a place that is taken when the server listens again: the next check helps.
    this.#server.on("error", () => {});
    this.#inner.port = (this.#server.address() as { readonly port: number }).port;
    if (this.#tls === undefined) this.#port = this.#inner.port;
    else await this.#openFront(this.#tls);
    this.#scheduleCheck();
  }

  async #openFront(tls: TlsOptions): Promise<void> {
    try {
      this.#front = await TlsFront.open({
        ...tls,
        hostname: this.hostname,
        port: this.#port,
        behind: () => this.#inner.port,
        maxConnections: this.#maxConnections,
      });
    } catch (error) {
      this.#server.close();
      throw error;
    }
    this.#port = this.#front.port;
  }

  async shutdown(timeoutMs = 5000): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#checking);
    this.#front?.stop();
    this.#server.close();
    this.#server.closeIdleConnections();
    const until = performance.now() + timeoutMs;
    while (this.#connections.size > 0) {
      const left = until - performance.now();
      if (left <= 0) break;
      const timer = setTimeout(() => this.#changed.resolve(), left);
      await this.#changed.promise;
      clearTimeout(timer);
    }
    for (const socket of this.#refusing) socket.destroy();
    this.#connections.destroy();
    this.#front?.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  #take(socket: Socket): void {
    this.#came++;
    socket.on("error", () => {});
    const connection = this.#connections.admit(
      socket,
      this.#front?.peerOf(socket.remotePort) ?? socket.remoteAddress ?? "",
    );
    if (connection !== undefined) {
      socket.once("close", () => this.#remove(connection));
      return;
    }
    this.#refused++;
    const [oldest] = this.#refusing;
    if (oldest !== undefined && this.#refusing.size >= MAX_REFUSALS) {
      this.#refusing.delete(oldest);
      oldest.destroy();
    }
    this.#refusing.add(socket);
    const timer = setTimeout(() => socket.destroy(), REFUSAL_MS);
    socket.once("close", () => {
      clearTimeout(timer);
      this.#refusing.delete(socket);
    });
  }

  #remove(connection: Connection): void {
    this.#connections.remove(connection);
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async #answer(
    request: IncomingMessage,
    response: ServerResponse,
    answer: (request: IncomingMessage, response: ServerResponse) => Promise<void>,
  ): Promise<void> {
    const connection = this.#connections.of(request.socket);
    if (connection !== undefined) connection.requests++;
    response.once("close", () => {
      if (connection !== undefined) connection.requests--;
      // Nobody reads the rest of a body that was not wanted.
      const isOver = !request.complete || this.#turnedAway.has(response);
      if (isOver || connection === undefined || this.#closing) request.socket.destroySoon();
    });
    try {
      await answer(request, response);
    } catch {
      response.destroy();
    }
  }

  async #fetch(request: Request, socket: Socket): Promise<Response> {
    const connection = this.#connections.of(socket);
    if (connection === undefined) return full();
    if (!connection.known && await this.#authorize?.(request)) this.#connections.trust(connection);
    const remoteAddr = {
      transport: "tcp" as const,
      hostname: connection.address,
      port: socket.remotePort ?? 0,
    };
    return await this.#app.fetch(request, { remoteAddr, isTls: this.#front !== undefined });
  }

  async #upgrade(incoming: IncomingMessage, socket: Socket, head: Uint8Array): Promise<void> {
    // What comes from now on is the WebSocket's.
    socket.pause();
    socket.setTimeout(0);
    const connection = this.#connections.of(socket);
    if (connection !== undefined) connection.requests++;
    let taken = false;
    let response: Response;
    try {
      const request = new Request(new URL(incoming.url ?? "/", "http://edgetuner.invalid"), {
        headers: Object.entries(incoming.headersDistinct).flatMap(([name, values]) =>
          (values ?? []).map((value): [string, string] => [name, value])
        ),
      });
      offerUpgrade(request, {
        socket,
        head,
        taken: (webSocket) => {
          taken = true;
          // The socket belongs to the WebSocket now, and tells of its own end no more.
          if (connection !== undefined) this.#follow(connection, webSocket);
        },
      });
      response = await this.#fetch(request, socket);
    } catch {
      response = refusal(400, "The request is malformed");
    }
    if (taken) return;
    await writeResponse(socket, response);
    if (connection !== undefined) connection.requests--;
  }

  #follow(connection: Connection, webSocket: WebSocket): void {
    this.#connections.trust(connection);
    const over = () => this.#remove(connection);
    webSocket.addEventListener("close", over, { once: true });
    webSocket.addEventListener("error", () => {
      // Without this a WebSocket that failed to open would never be over.
      if (webSocket.readyState !== WebSocket.OPEN) over();
    });
  }

  #scheduleCheck(): void {
    const before = { inner: this.#came, front: this.#front?.came ?? 0 };
    this.#checking = setTimeout(() => void this.#check(before), this.#checkIntervalMs);
    Deno.unrefTimer(this.#checking as unknown as number);
  }

  /** Running out of files stops `node:net` from accepting, for good and in silence: then it listens anew. */
  async #check(before: { readonly inner: number; readonly front: number }): Promise<void> {
    const front = this.#front;
    await this.#keepAccepting(this.#server, this.#inner, () => this.#came !== before.inner);
    if (front !== undefined) {
      const place = { hostname: this.hostname, port: front.port };
      await this.#keepAccepting(front.server, place, () => front.came !== before.front);
    }
    if (!this.#closing) this.#scheduleCheck();
  }

  async #keepAccepting(
    server: NetServer,
    { hostname, port }: { readonly hostname: string; readonly port: number },
    came: () => boolean,
  ): Promise<void> {
    if (came() || this.#closing) return;
    const accepts = await isAccepting(hostname, port, Math.min(1000, this.#checkIntervalMs), came);
    if (accepts || this.#closing) return;
    // Connections that there are stay: not the `close` of HTTP, which ends those without a request.
    NetServer.prototype.close.call(server);
    server.listen(port, hostname);
  }
}

/** The answer, with the word that the connection ends after it; what else it says of the connection stays. */
function withClose({ body, status, statusText, headers: own }: Response): Response {
  const headers = new Headers(own);
  headers.append("connection", "close");
  return new Response(body, { status, statusText, headers });
}

function full(): Response {
  return refusal(503, "Cannot answer as there must be room for a connection: there is none now", RETRY_AFTER);
}
