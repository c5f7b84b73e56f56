/**
 * Which connections a server has, and which it takes on.
 *
 * @module
 */

import type { Socket } from "node:net";

/** How many connections there may be. */
export interface ConnectionLimits {
  /** In all. */
  readonly maxConnections: number;
  /** That have not shown a token. */
  readonly maxStrangers: number;
  /** That have not shown a token, from one address. */
  readonly maxStrangersPerAddress: number;
}

/** A connection. */
export interface Connection {
  /** Its socket. */
  readonly socket: Socket;
  /** Address of the peer. */
  readonly address: string;
  /** When it was taken on, as `performance.now()`. */
  readonly since: number;
  /** True once it has shown a token. */
  known: boolean;
  /** Requests that are being answered. */
  requests: number;
}

/** Shorter waits for a request are the network's. */
const GRACE_MS = 1000;

/** All connections of a server. */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #all = new Map<Socket, Connection>();
  /** In order of coming. */
  readonly #strangers = new Set<Connection>();
  readonly #perAddress = new Map<string, number>();

  constructor(limits: ConnectionLimits) {
    this.#limits = limits;
  }

  /** Number of connections. */
  get size(): number {
    return this.#all.size;
  }

  /** Number of those that have not shown a token. */
  get strangers(): number {
    return this.#strangers.size;
  }

  /** The connection of a socket; `undefined` if it was not taken on. */
  of(socket: Socket): Connection | undefined {
    return this.#all.get(socket);
  }

  /**
   * Takes a connection on, in the place of one that keeps the server waiting if need be.
   *
   * @returns `undefined` if there is no room.
   */
  admit(socket: Socket, address: string): Connection | undefined {
    const { maxConnections, maxStrangers, maxStrangersPerAddress } = this.#limits;
    const hasRoom =
      (this.#of(address) < maxStrangersPerAddress || this.#makeRoom((other) => other.address === address)) &&
      ((this.#strangers.size < maxStrangers && this.#all.size < maxConnections) ||
        this.#makeRoom(() => true));
    if (!hasRoom) return undefined;
    const connection = { socket, address, since: performance.now(), known: false, requests: 0 };
    this.#all.set(socket, connection);
    this.#strangers.add(connection);
    this.#perAddress.set(address, this.#of(address) + 1);
    return connection;
  }

  /** The connection has shown a token. */
  trust(connection: Connection): void {
    connection.known = true;
    this.#forgetStranger(connection);
  }

  /** The connection is over. */
  remove(connection: Connection): void {
    this.#all.delete(connection.socket);
    this.#forgetStranger(connection);
  }

  /** Ends all connections that `node:http` still has. */
  destroy(): void {
    for (const { socket } of [...this.#all.values()]) socket.destroy();
  }

  #of(address: string): number {
    return this.#perAddress.get(address) ?? 0;
  }

  #forgetStranger(connection: Connection): void {
    if (!this.#strangers.delete(connection)) return;
    const { address } = connection;
    const count = this.#of(address) - 1;
    if (count > 0) this.#perAddress.set(address, count);
    else this.#perAddress.delete(address);
  }

  /** Ends the oldest connection that has not sent a request for a while: an honest client sends it at once. */
  #makeRoom(counts: (connection: Connection) => boolean): boolean {
    const now = performance.now();
    for (const connection of this.#strangers) {
      if (now - connection.since < GRACE_MS) return false;
      if (connection.requests > 0 || !counts(connection)) continue;
      connection.socket.destroy();
      this.remove(connection);
      return true;
    }
    return false;
  }
}

/** Files that the process may have open at once: what the system says, else what is usual. */
export function openFilesLimit(): number {
  const path = "/proc/self/limits";
  try {
    if (Deno.permissions.querySync({ name: "read", path }).state === "granted") {
      const limit = /^Max open files\s+(\d+)/m.exec(Deno.readTextFileSync(path))?.[1];
      if (limit !== undefined) return Number(limit);
    }
  } catch {
    // Not on Linux.
  }
  return 1024;
}

/** Limits that leave a quarter of the files, and a hundred more, to everything but connections. */
export function defaultLimits(openFiles: number): ConnectionLimits {
  const maxConnections = Math.min(4096, Math.max(8, Math.floor((openFiles - 100) * 0.75)));
  const maxStrangers = Math.ceil(maxConnections / 2);
  return { maxConnections, maxStrangers, maxStrangersPerAddress: Math.min(128, Math.ceil(maxStrangers / 2)) };
}
