/**
 * The connection to a broker.
 *
 * @module
 */

import {
  type Authenticator,
  credsAuthenticator,
  errors,
  type NatsConnection,
  nkeyAuthenticator,
  nkeys,
  tokenAuthenticator,
  usernamePasswordAuthenticator,
  wsconnect,
} from "@nats-io/nats-core";
import { ChannelClosedError, HandshakeError } from "@edgetuner/core/contracts";
import { dropSocket } from "../_drop_socket.ts";
import { trustingSocket } from "../_trust.ts";
import type { Frame } from "../_wire_channel.ts";
import type { NatsCredentials } from "./_options.ts";
import { HEADER_BYTES } from "../_packet.ts";

/** Parts stay below this, so that a large frame does not hold up what others send through the broker. */
const MAX_PART_BYTES = 2 ** 17;
/** Pause between two attempts to reach the broker again, in milliseconds. */
const RECONNECT_MS = 250;
/** Time for the last messages to leave, in milliseconds. */
const FLUSH_MS = 500;
/** Time for a broker to answer the end of a connection, in milliseconds. */
const CLOSE_MS = 500;

/** How to reach a broker. */
export interface BrokerOptions {
  /** `ws://HOST:PORT` or `wss://HOST:PORT`. */
  readonly broker: string;
  readonly credentials: NatsCredentials;
  readonly caCerts?: readonly string[] | undefined;
  readonly connectTimeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** A connection to a broker; it comes back by itself. */
export class Broker {
  readonly connection: NatsConnection;
  /** Called whenever the connection is back: what was sent meanwhile is lost. */
  readonly onBack = new Set<() => void>();
  isUp = true;

  readonly #sockets: Sockets;

  private constructor(connection: NatsConnection, sockets: Sockets) {
    this.connection = connection;
    this.#sockets = sockets;
    this.#follow();
  }

  /**
   * Connects.
   *
   * @throws {ChannelClosedError} If it cannot be reached in time.
   * @throws {HandshakeError} If it refuses the credentials.
   */
  static async open(
    { broker, credentials, caCerts, connectTimeoutMs, signal }: BrokerOptions,
  ): Promise<Broker> {
    const abort = Promise.withResolvers<"aborted" | "late">();
    const end = () => abort.resolve("aborted");
    signal?.addEventListener("abort", end, { once: true });
    const timer = setTimeout(() => abort.resolve("late"), connectTimeoutMs);
    const shown = authenticator(credentials, broker);
    const sockets = new Sockets(caCerts);
    const connecting = wsconnect({
      wsFactory: (url) => Promise.resolve(sockets.open(url)),
      servers: broker,
      authenticator: shown,
      noEcho: true,
      timeout: connectTimeoutMs,
      reconnect: true,
      maxReconnectAttempts: -1,
      reconnectTimeWait: RECONNECT_MS,
      reconnectJitter: RECONNECT_MS,
      reconnectJitterTLS: RECONNECT_MS,
      ignoreAuthErrorAbort: false,
      pingInterval: 20_000,
      name: "edgetuner",
    });
    try {
      const first = await Promise.race([connecting, abort.promise]);
      if (typeof first !== "string") return new Broker(first, sockets);
      sockets.last?.close();
      await within(CLOSE_MS, connecting.then((connection) => connection.close(), () => {}));
      sockets.drop();
      signal?.throwIfAborted();
      throw new ChannelClosedError(
        `Cannot connect to the broker at ${broker}: no answer within ${connectTimeoutMs} ms`,
      );
    } catch (error) {
      if (error instanceof ChannelClosedError || signal?.aborted) throw error;
      const why = (error as Error).message;
      if (
        error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError
      ) {
        throw new HandshakeError(`Cannot connect to the broker at ${broker}: it refused the credentials`);
      }
      throw new ChannelClosedError(`Cannot connect to the broker at ${broker}: ${why}`, { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
    }
  }

  /** Most bytes of a frame in a message now. */
  get partBytes(): number {
    const most = this.connection.info?.max_payload ?? MAX_PART_BYTES;
    return Math.max(1, Math.min(MAX_PART_BYTES, most - HEADER_BYTES));
  }

  /** Publishes a message, if the broker is there. */
  publish(subject: string, bytes: Frame): void {
    if (!this.connection.isClosed()) this.connection.publish(subject, bytes);
  }

  /** Gives the connection up, and makes it anew. */
  renew(): void {
    this.#sockets.drop();
  }

  /**
   * Gives the connection up where the broker does not answer in time, and makes it anew: until it is closed. The client
   * of the broker would wait for a minute, and then for a farewell that never comes.
   */
  watch(limitMs: number): void {
    let isAsking = false;
    const look = async () => {
      if (!this.isUp || isAsking || this.connection.isClosed()) return;
      isAsking = true;
      const answered = this.connection.flush().then(() => true, () => true);
      if (
        await Promise.race([answered, within(limitMs, answered).then(() => false)]) === false && this.isUp
      ) {
        this.renew();
      }
      isAsking = false;
    };
    const timer = setInterval(() => void look(), Math.ceil(limitMs / 2));
    void this.connection.closed().then(() => clearInterval(timer));
  }

  /** Waits a while for what was published to leave. */
  async flush(): Promise<void> {
    if (!this.isUp || this.connection.isClosed()) return;
    await within(FLUSH_MS, this.connection.flush().catch(() => {}));
  }

  /** Sends off what was published, and closes the connection. */
  async close(): Promise<void> {
    await this.flush();
    await within(CLOSE_MS, this.connection.close());
    // A broker that is held up answers no farewell; its socket would hold the process.
    this.#sockets.drop();
  }

  async #follow(): Promise<void> {
    for await (const { type } of this.connection.status()) {
      if (type === "disconnect") this.isUp = false;
      else if (type === "reconnect") {
        this.isUp = true;
        for (const back of this.onBack) back();
      }
    }
  }
}

/** What shows the credentials to the broker. */
function authenticator(
  { token, user, password, creds, nkey }: NatsCredentials,
  broker: string,
): Authenticator[] {
  const seed = new TextEncoder().encode(nkey?.trim());
  try {
    if (nkey !== undefined) nkeys.fromSeed(seed);
  } catch {
    // What it is stays unsaid: it is secret.
    throw new HandshakeError(
      `Cannot connect to the broker at ${broker}: the nkey is no seed, which begins with SU`,
    );
  }
  return [
    ...(nkey === undefined ? [] : [nkeyAuthenticator(seed)]),
    ...(creds === undefined ? [] : [credsAuthenticator(new TextEncoder().encode(creds))]),
    ...(user === undefined ? [] : [usernamePasswordAuthenticator(user, password)]),
    ...(token === undefined ? [] : [tokenAuthenticator(token)]),
  ];
}

/** The sockets of a connection, one after another. */
class Sockets {
  readonly #caCerts: readonly string[] | undefined;

  /** The one that is used now. */
  last: WebSocket | undefined;

  /** @param caCerts Certificates to trust too. */
  constructor(caCerts: readonly string[] | undefined) {
    this.#caCerts = caCerts;
  }

  /** Opens one. */
  open(url: string): { readonly socket: WebSocket; readonly encrypted: boolean } {
    this.last = trustingSocket(url, this.#caCerts);
    return { socket: this.last, encrypted: url.startsWith("wss:") };
  }

  /** Lets go of one that nobody answers. */
  drop(): void {
    if (this.last === undefined || this.last.readyState === WebSocket.CLOSED) return;
    this.last.close();
    dropSocket(this.last);
  }
}

/** Waits, but not for long. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
