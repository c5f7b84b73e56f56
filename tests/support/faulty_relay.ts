/**
 * A relay for bytes on this machine that does to connections what networks do.
 *
 * @module
 */

/** A direction of a connection, seen from the side that connects. */
export type Direction = "up" | "down";

/** One connection that is carried. */
interface Carried {
  readonly near: Deno.Conn;
  readonly far: Deno.Conn;
}

/** Carries bytes to a port, and cuts, stops and refuses. */
export class FaultyRelay implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #port: number;
  readonly #open = new Set<Carried>();
  readonly #copying = new Set<Promise<void>>();
  readonly #serving: Promise<void>;
  /** Connections that pass nothing on in a direction. */
  readonly #stalled: Record<Direction, Set<Carried>> = { up: new Set(), down: new Set() };
  #bytesLeft = Infinity;
  #isDeaf = false;
  /** Connections so far. */
  connections = 0;
  /** Cut connections so far. */
  cuts = 0;

  constructor(port: number) {
    this.#port = port;
    this.#serving = this.#serve();
  }

  /** Port to connect to. */
  get port(): number {
    return this.#listener.addr.port;
  }

  /** Cuts all connections. */
  reset(): void {
    this.#bytesLeft = Infinity;
    for (const carried of this.#open) this.#cut(carried);
  }

  /** Cuts all connections once so many bytes more have been passed on. */
  resetAfter(bytes: number): void {
    this.#bytesLeft = bytes;
  }

  /** The connections of now pass nothing on in a direction any more, and nobody is told. */
  stall(direction: Direction): void {
    for (const carried of this.#open) this.#stalled[direction].add(carried);
  }

  /** Nothing passes, new connections are not answered either, until `hear`. */
  deafen(): void {
    this.stall("up");
    this.stall("down");
    this.#isDeaf = true;
  }

  /** New connections pass again. */
  hear(): void {
    this.#isDeaf = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#serving;
    this.reset();
    await Promise.all(this.#copying);
  }

  async #serve(): Promise<void> {
    for await (const near of this.#listener) {
      this.connections++;
      const far = await Deno.connect({ hostname: "127.0.0.1", port: this.#port }).catch(() => null);
      if (far === null) {
        near.close();
        continue;
      }
      const carried = { near, far };
      this.#open.add(carried);
      if (this.#isDeaf) {
        this.#stalled.up.add(carried);
        this.#stalled.down.add(carried);
      }
      for (const direction of ["up", "down"] as const) {
        const copy = this.#copy(carried, direction).finally(() => this.#copying.delete(copy));
        this.#copying.add(copy);
      }
    }
  }

  async #copy(carried: Carried, direction: Direction): Promise<void> {
    const [from, to] = direction === "up" ? [carried.near, carried.far] : [carried.far, carried.near];
    const buffer = new Uint8Array(65_536);
    try {
      for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
        if (this.#stalled[direction].has(carried)) continue;
        const end = Math.min(n, this.#bytesLeft);
        this.#bytesLeft -= end;
        for (let at = 0; at < end;) at += await to.write(buffer.subarray(at, end));
        if (end < n) this.reset();
      }
      // A side that has no more to send is told of, unless nothing gets through.
      if (!this.#stalled[direction].has(carried)) this.#cut(carried);
    } catch {
      this.#cut(carried);
    }
  }

  #cut(carried: Carried): void {
    if (!this.#open.delete(carried)) return;
    this.cuts++;
    for (const connection of [carried.near, carried.far]) {
      try {
        connection.close();
      } catch {
        // It is closed.
      }
    }
    this.#stalled.up.delete(carried);
    this.#stalled.down.delete(carried);
  }
}
