/**
 * TLS in front of a server of this machine: Deno takes WebSockets over from plain connections alone.
 *
 * @module
 */

import { ListenError } from "@edgetuner/core/contracts";

/** Certificates and key, as PEM. */
export interface TlsOptions {
  /** The certificate, and those that it was signed by. */
  readonly cert: string;
  /** Its private key. */
  readonly key: string;
}

/** Longest time for a handshake, in milliseconds. */
const HANDSHAKE_MS = 10_000;
/** Most handshakes at once. */
const MAX_HANDSHAKES = 128;

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
  readonly #options: TlsFrontOptions;
  readonly #listener: Deno.TlsListener;
  /** Who is behind a connection to the server, by that one's port. */
  readonly #peers = new Map<number, string>();
  readonly #connections = new Set<Deno.Conn>();
  #handshakes = 0;
  readonly #accepting: Promise<void>;

  /** @throws {ListenError} If the address is in use or not of this machine, or certificate and key are none. */
  constructor(options: TlsFrontOptions) {
    this.#options = options;
    const { hostname, port, cert, key } = options;
    try {
      this.#listener = Deno.listenTls({ hostname, port, cert, key });
    } catch (cause) {
      throw new ListenError(hostname, port, cause as Error);
    }
    this.#accepting = this.#accept();
  }

  /** Port that it listens on. */
  get port(): number {
    return this.#listener.addr.port;
  }

  /** Address of the peer that is behind a connection. */
  peerOf(port: number | undefined): string | undefined {
    return port === undefined ? undefined : this.#peers.get(port);
  }

  /** Stops listening. */
  stop(): void {
    this.#listener.close();
  }

  /** Ends all connections. */
  async destroy(): Promise<void> {
    for (const connection of this.#connections) close(connection);
    await this.#accepting;
  }

  async #accept(): Promise<void> {
    for (;;) {
      let connection: Deno.TlsConn;
      try {
        connection = await this.#listener.accept();
      } catch (error) {
        // It was closed; what one connection did is no reason to end.
        if (error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted) return;
        await new Promise((resolve) => setTimeout(resolve, 10));
        continue;
      }
      const isFull = this.#connections.size >= 2 * this.#options.maxConnections;
      if (isFull || this.#handshakes >= MAX_HANDSHAKES) close(connection);
      else void this.#serve(connection);
    }
  }

  async #serve(near: Deno.TlsConn): Promise<void> {
    this.#connections.add(near);
    let far: Deno.TcpConn | undefined;
    const timer = setTimeout(() => close(near), HANDSHAKE_MS);
    this.#handshakes++;
    try {
      await near.handshake().finally(() => this.#handshakes--);
      clearTimeout(timer);
      far = await Deno.connect({ hostname: "127.0.0.1", port: this.#options.behind() });
      far.setNoDelay(true);
      this.#connections.add(far);
      this.#peers.set(far.localAddr.port, (near.remoteAddr as Deno.NetAddr).hostname);
      await Promise.all([
        near.readable.pipeTo(far.writable),
        far.readable.pipeTo(near.writable),
      ]);
    } catch {
      // One of the two has gone; so does the other.
    } finally {
      clearTimeout(timer);
      for (const connection of [near, far]) {
        if (connection === undefined) continue;
        close(connection);
        this.#connections.delete(connection);
      }
      if (far !== undefined) this.#peers.delete(far.localAddr.port);
    }
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It is closed.
  }
}
