/**
 * A link between two ends of this machine that can be cut, or fall silent without a word.
 *
 * @module
 */

/** A relay to a port. */
export class Relay implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  /** Port that it leads to. */
  target: number;
  readonly #open = new Set<Deno.TcpConn>();
  readonly #running: Promise<void>;
  #isClosed = false;
  /** What it does with bytes and new connections. */
  state: "passes" | "silent" | "refuses" = "passes";

  /** @param target Port that it leads to. */
  constructor(target: number) {
    this.target = target;
    this.#running = this.#accept();
  }

  /** Its own port. */
  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  /** Ends all connections, and refuses new ones. */
  cut(): void {
    this.state = "refuses";
    for (const connection of this.#open) connection.close();
    this.#open.clear();
  }

  async #accept(): Promise<void> {
    for await (const inner of this.#listener) {
      if (this.state === "refuses") inner.close();
      else void this.#join(inner).catch(() => {});
    }
  }

  async #join(inner: Deno.TcpConn): Promise<void> {
    const outer = await Deno.connect({ hostname: "127.0.0.1", port: this.target });
    this.#open.add(inner).add(outer);
    await Promise.all([this.#pass(inner, outer), this.#pass(outer, inner)]);
  }

  async #pass(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const room = new Uint8Array(65_536);
    try {
      for (let count = await from.read(room); count !== null; count = await from.read(room)) {
        // What is sent into a dead link is lost.
        if (this.state === "silent") continue;
        for (let at = 0; at < count;) at += await to.write(room.subarray(at, count));
      }
    } catch {
      // closed here
    } finally {
      for (const connection of [from, to]) {
        if (!this.#open.delete(connection)) continue;
        connection.close();
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#listener.close();
    await this.#running;
  }
}
