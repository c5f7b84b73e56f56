/**
 * Channels that were opened by peers and wait to be accepted.
 *
 * @module
 */

import type { Channel, Listener, WaitOptions } from "@edgetuner/core/contracts";
import { WaitLine } from "./_wait_line.ts";

/** The part of a listener that all transports share. */
export class Backlog implements Listener {
  readonly #pending: { readonly channel: Channel; readonly taken: () => void }[] = [];
  readonly #acceptors = new WaitLine<undefined, Channel | null>();
  readonly #maxChannels: number;
  #live = 0;
  #disposed = false;

  constructor(maxChannels: number) {
    this.#maxChannels = maxChannels;
  }

  /** Why no channel can be taken on now; `undefined` if one can. */
  get refusal(): string | undefined {
    if (this.#disposed) return "Cannot open a channel as the listener is closed";
    if (this.#live < this.#maxChannels) return undefined;
    return `Cannot open a channel as at most ${this.#maxChannels} may be open: current value is ${this.#live}`;
  }

  /** Takes on a channel for which `refusal` was `undefined`. */
  offer(channel: Channel): void {
    const { promise, resolve: taken } = Promise.withResolvers<void>();
    this.#live++;
    // One that ended before it was accepted still counts: it holds received frames.
    Promise.all([channel.closed, promise]).then(() => this.#live--);
    const acceptor = this.#acceptors.shift();
    if (acceptor) {
      taken();
      acceptor.resolve(channel);
    } else {
      this.#pending.push({ channel, taken });
    }
  }

  async accept({ signal }: WaitOptions = {}): Promise<Channel | null> {
    signal?.throwIfAborted();
    const first = this.#pending.shift();
    if (first) {
      first.taken();
      return first.channel;
    }
    return this.#disposed ? null : await this.#acceptors.wait(undefined, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    for (let acceptor = this.#acceptors.shift(); acceptor; acceptor = this.#acceptors.shift()) {
      acceptor.resolve(null);
    }
    await Promise.all(
      this.#pending.splice(0).map(({ channel, taken }) => {
        taken();
        return channel.close("The listener was closed");
      }),
    );
  }
}
