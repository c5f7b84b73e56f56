/**
 * A TCP proxy that does to connections what networks do.
 *
 * @module
 */

import net from "node:net";

/** Which way bytes go: up from the device to the edge server, or down. */
export type Way = "up" | "down";
const WAYS = ["up", "down"] as const;

/** Most bytes of a connection's beginning that can be sent once more. */
const MOST_REPLAYED = 1 << 16;

/** One way of a connection. */
interface Lane {
  readonly from: net.Socket;
  readonly to: net.Socket;
  /** What comes is left where it is. */
  isHeld: boolean;
  /** It began while nothing arrived: whoever tried to connect tries again by itself once something does. */
  readonly isLate: boolean;
  /** When what came last goes on, in milliseconds. */
  lastAt: number;
}

/** A connection through the proxy. */
interface Link {
  readonly lanes: Readonly<Record<Way, Lane>>;
  /** Its first bytes up. */
  readonly first: Uint8Array[];
}

/** A proxy between one device and the edge server or broker. */
export class FaultyProxy implements AsyncDisposable {
  readonly #server: net.Server;
  readonly #target: number;
  readonly #links = new Set<Link>();
  readonly #held = new Set<Way>();
  #delayMs = 0;
  #isRefusing = false;
  /** Where devices connect. */
  readonly port: number;

  private constructor(server: net.Server, port: number, target: number) {
    this.#server = server;
    this.port = port;
    this.#target = target;
    server.on("connection", (client: net.Socket) => this.#accept(client));
  }

  /** Listens on a free port. */
  static async start(target: number): Promise<FaultyProxy> {
    const server = net.createServer({ noDelay: true });
    const { promise, resolve } = Promise.withResolvers<void>();
    server.listen(0, "127.0.0.1", resolve);
    await promise;
    return new FaultyProxy(server, (server.address() as net.AddressInfo).port, target);
  }

  /** Connections that are open. */
  get open(): number {
    return this.#links.size;
  }

  /** Resets all connections. */
  reset(): void {
    for (const { lanes: { up } } of this.#links) {
      for (const socket of [up.from, up.to]) socket.resetAndDestroy();
    }
    this.#links.clear();
  }

  /** New connections are reset at once, or no longer. */
  refuse(isRefusing: boolean): void {
    this.#isRefusing = isRefusing;
  }

  /** Nothing arrives any more, one way or both, and nobody is told. New connections fare the same. */
  hold(ways: readonly Way[]): void {
    for (const way of ways) this.#held.add(way);
    for (const { lanes } of this.#links) for (const way of ways) lanes[way].isHeld = true;
    this.#flow();
  }

  /** What was held goes on, as after a cable is put back; new connections are as ever. */
  heal(): void {
    this.#held.clear();
    for (const { lanes } of this.#links) for (const way of WAYS) lanes[way].isHeld = false;
    this.#flow();
  }

  /** New connections are as ever; those that were held stay so for ever, as where a NAT has forgotten them. */
  forget(): void {
    this.#held.clear();
    for (const { lanes } of this.#links) {
      for (const lane of Object.values(lanes)) if (lane.isLate) lane.isHeld = false;
    }
    this.#flow();
  }

  /** What comes goes on so much later. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  /** Sends the first bytes of the newest connection once more over a connection of its own. */
  replay(): net.Socket | null {
    const link = [...this.#links].at(-1);
    if (link === undefined) return null;
    const socket = net.connect(this.#target, "127.0.0.1");
    socket.on("error", () => {});
    socket.on("data", () => {});
    for (const bytes of link.first) socket.write(bytes);
    return socket;
  }

  #accept(client: net.Socket): void {
    client.on("error", () => {});
    if (this.#isRefusing) return void client.resetAndDestroy();
    const upstream = net.connect({ port: this.#target, host: "127.0.0.1", noDelay: true });
    upstream.on("error", () => {});
    const lane = (from: net.Socket, to: net.Socket, way: Way): Lane => {
      return { from, to, isHeld: this.#held.has(way), isLate: this.#held.size > 0, lastAt: 0 };
    };
    const lanes = { up: lane(client, upstream, "up"), down: lane(upstream, client, "down") };
    const link: Link = { lanes, first: [] };
    this.#links.add(link);
    for (const way of WAYS) this.#join(link, way);
    this.#flow();
  }

  /** Passes on what comes one way, and its end. */
  #join(link: Link, way: Way): void {
    const lane = link.lanes[way];
    let kept = 0;
    lane.from.on("data", (bytes: Uint8Array) => {
      if (way === "up" && (kept += bytes.length) <= MOST_REPLAYED) link.first.push(bytes.slice());
      this.#later(lane, () => {
        if (!lane.to.destroyed && !lane.to.write(bytes)) {
          lane.from.pause();
          lane.to.once("drain", () => lane.isHeld || lane.from.resume());
        }
      });
    });
    lane.from.on("close", (hadError: boolean) => {
      // Nobody hears of an end that is held.
      const end = () => hadError ? lane.to.resetAndDestroy() : lane.to.destroySoon();
      if (!lane.isHeld) this.#later(lane, end);
      if (link.lanes.up.from.destroyed && link.lanes.down.from.destroyed) this.#links.delete(link);
    });
  }

  /** Does something now or, while there is a delay, in its order later. */
  #later(lane: Lane, what: () => void): void {
    const now = performance.now();
    lane.lastAt = Math.max(lane.lastAt, this.#delayMs === 0 ? 0 : now + this.#delayMs);
    if (lane.lastAt <= now) what();
    else setTimeout(what, lane.lastAt - now);
  }

  #flow(): void {
    for (const { lanes } of this.#links) {
      for (const { from, to, isHeld } of Object.values(lanes)) {
        if (isHeld) from.pause();
        else if (from.destroyed) to.destroySoon();
        else from.resume();
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.reset();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.close(() => resolve());
    await promise;
  }
}
