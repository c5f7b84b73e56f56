/**
 * Two ends of a channel in memory, for tests of what lies above: one end is used as raw bytes.
 *
 * @module
 */

import { type Channel, ChannelClosedError, type CloseInfo } from "@edgetuner/core";

type Bytes = Uint8Array<ArrayBuffer>;

class MemoryChannel implements Channel {
  readonly peer: string;
  readonly #closed = Promise.withResolvers<CloseInfo>();
  readonly #queue: Bytes[] = [];
  #waiter: PromiseWithResolvers<Bytes | null> | null = null;
  #ended = false;
  other!: MemoryChannel;
  /** Sends wait for ever, as to a peer that does not read. */
  stuck = false;
  limitReceived?: (bytes: number) => void;

  constructor(peer: string) {
    this.peer = peer;
  }

  get closed(): Promise<CloseInfo> {
    return this.#closed.promise;
  }

  send(frame: Bytes, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#ended) {
      return Promise.reject(new ChannelClosedError("Cannot send: the channel is closed"));
    }
    if (this.stuck) {
      return new Promise((_, reject) => {
        if (signal?.aborted) reject(signal.reason);
        signal?.addEventListener("abort", () => reject(signal.reason));
      });
    }
    this.other.deliver(frame.slice());
    return Promise.resolve();
  }

  receive(): Promise<Bytes | null> {
    const queued = this.#queue.shift();
    if (queued !== undefined) return Promise.resolve(queued);
    if (this.#ended) return Promise.resolve(null);
    this.#waiter = Promise.withResolvers();
    return this.#waiter.promise;
  }

  close(reason = ""): Promise<void> {
    this.end({ clean: true, reason });
    this.other.end({ clean: true, reason });
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  deliver(frame: Bytes): void {
    if (this.#waiter === null) this.#queue.push(frame);
    else this.#take(frame);
  }

  end(info: CloseInfo): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#closed.resolve(info);
    this.#take(null);
  }

  #take(frame: Bytes | null): void {
    this.#waiter?.resolve(frame);
    this.#waiter = null;
  }
}

/** Two connected ends. `near.stuck = true` makes sends of that end wait. */
export function memoryChannels(): [near: Channel & { stuck: boolean }, far: Channel & { stuck: boolean }] {
  const near = new MemoryChannel("near's peer");
  const far = new MemoryChannel("far's peer");
  near.other = far;
  far.other = near;
  return [near, far];
}
