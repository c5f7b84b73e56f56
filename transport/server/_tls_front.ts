/**
 * TLS in front of a server of this machine: Deno takes WebSockets over from plain connections alone.
 *
 * It stands on `node:tls`: a connection of `Deno.listenTls` that is closed before its handshake is over keeps its file
 * until the other side ends it, so that idle connections would use up all files of the process.
 *
 * @module
 */

import { connect, createServer, type Server, type Socket } from "node:net";
import { createSecureContext, type SecureContext, TLSSocket } from "node:tls";
import { ListenError } from "@edgetuner/core/contracts";
import { Connections } from "./_connections.ts";

/** Certificates and key, as PEM. */
export interface TlsOptions {
  /** The certificate, and those that it was signed by. */
  readonly cert: string;
  /** Its private key. */
  readonly key: string;
}

/** Longest time for a handshake, in milliseconds. */
const HANDSHAKE_MS = 10_000;
/** Most handshakes at once, and of one address. */
const MAX_HANDSHAKES = 128;
const MAX_OF_ADDRESS = 64;

/** What a front does. */
export interface TlsFrontOptions extends TlsOptions {
  readonly hostname: string;
  readonly port: number;
  /** Port of the server behind it, on this machine. */
  readonly behind: () => number;
  /** Most connections. */
  readonly maxConnections: number;
}

/** Ends TLS, and hands on what was in it. */
export class TlsFront {
  /** What accepts connections. */
  readonly server: Server;
  readonly #options: TlsFrontOptions;
  readonly #context: SecureContext;
  /** Who is behind a connection to the server, by that one's port. */
  readonly #peers = new Map<number, string>();
  readonly #sockets = new Set<Socket>();
  /** Those whose handshake is not over: the oldest give way to others. */
  readonly #handshakes = new Connections({
    maxConnections: MAX_HANDSHAKES,
    maxStrangers: MAX_HANDSHAKES,
    maxStrangersPerAddress: MAX_OF_ADDRESS,
  });
  #came = 0;
  #port: number;

  private constructor(options: TlsFrontOptions) {
    this.#options = options;
    this.#port = options.port;
    this.#context = createSecureContext({ cert: options.cert, key: options.key });
    this.server = createServer((socket) => this.#take(socket));
  }

  /**
   * Begins to listen.
   *
   * @throws {ListenError} If the address is in use or not of this machine, or certificate and key are none.
   */
  static async open(options: TlsFrontOptions): Promise<TlsFront> {
    const { hostname, port, cert, key } = options;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    try {
      // `node:tls` says nothing of a certificate that is none until somebody comes.
      Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key }).close();
      const front = new TlsFront(options);
      front.server.once("error", reject);
      front.server.listen(port, hostname, resolve);
      await promise;
      front.server.off("error", reject);
      // An error of a connection: the next check of the server behind it helps.
      front.server.on("error", () => {});
      front.#port = (front.server.address() as { readonly port: number }).port;
      return front;
    } catch (cause) {
      throw new ListenError(hostname, port, cause as Error);
    }
  }

  /** Port that it listens on. */
  get port(): number {
    return this.#port;
  }

  /** Connections that came so far. */
  get came(): number {
    return this.#came;
  }

  /** Address of the peer that is behind a connection. */
  peerOf(port: number | undefined): string | undefined {
    return port === undefined ? undefined : this.#peers.get(port);
  }

  /** Stops listening. */
  stop(): void {
    this.server.close();
  }

  /** Ends all connections. */
  destroy(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #take(socket: Socket): void {
    this.#came++;
    socket.on("error", () => {});
    const isFull = this.#sockets.size >= 2 * this.#options.maxConnections;
    const handshake = isFull ? undefined : this.#handshakes.admit(socket, socket.remoteAddress ?? "");
    if (handshake === undefined) return void socket.destroy();
    this.#add(socket);
    socket.setNoDelay(true);
    const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS);
    const over = () => {
      clearTimeout(timer);
      this.#handshakes.remove(handshake);
    };
    socket.once("close", over);
    const near = new TLSSocket(socket, { isServer: true, secureContext: this.#context });
    near.on("error", () => socket.destroy());
    near.once("close", () => socket.destroy());
    near.once("secure", () => {
      socket.off("close", over);
      over();
      this.#handOn(socket, near);
    });
  }

  /** What comes goes to the server behind, and what that says comes back. */
  #handOn(socket: Socket, near: TLSSocket): void {
    const far = connect({ host: "127.0.0.1", port: this.#options.behind(), noDelay: true });
    this.#add(far);
    const address = socket.remoteAddress ?? "";
    far.once("connect", () => {
      const port = far.localPort!;
      this.#peers.set(port, address);
      far.once("close", () => this.#peers.delete(port));
    });
    far.on("error", () => {});
    far.once("close", () => {
      near.destroy();
      socket.destroy();
    });
    near.once("close", () => far.destroy());
    socket.once("close", () => far.destroy());
    near.pipe(far);
    far.pipe(near);
  }

  #add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
  }
}
