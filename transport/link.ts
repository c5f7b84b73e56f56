/**
 * Slow links in real time around any transport, so that a program can be tried under the bandwidth
 * and the latency of a home connection or a mobile network without leaving the machine.
 *
 * @module
 */

import type { Channel, Transport, WaitOptions } from "@edgetuner/core";
import { amount, count } from "./_options.ts";
import { type Frame, frameCost, type Wire, WireChannel } from "./_wire_channel.ts";

/** Options of {@linkcode emulateLink}; they hold for each direction on its own. */
export interface LinkOptions {
  /** Bytes that the link carries per second. */
  readonly bandwidthBytesPerSecond: number;
  /** Time in milliseconds that a byte is under way, on top of the time that the bandwidth costs. */
  readonly latencyMs: number;
  /**
   * Largest extra time in milliseconds that a frame is under way, drawn evenly from zero up. Frames
   * keep their order, so one that is late delays those behind it.
   *
   * @default {0}
   */
  readonly jitterMs?: number;
  /**
   * Seed of the jitter: the same seed gives the same delays.
   *
   * @default {1}
   */
  readonly seed?: number;
  /**
   * Bytes that may wait for the link in each direction before `send` waits; one frame may exceed it.
   *
   * @default {1048576}
   */
  readonly queueBytes?: number;
}

interface Link {
  readonly bytesPerMs: number;
  readonly latencyMs: number;
  readonly jitterMs: number;
  readonly seed: number;
  readonly queueBytes: number;
}

function readLink(options: LinkOptions): Link {
  return {
    bytesPerMs: amount("bandwidthBytesPerSecond", options.bandwidthBytesPerSecond, 0, 1) / 1000,
    latencyMs: amount("latencyMs", options.latencyMs, 0, 0),
    jitterMs: amount("jitterMs", options.jitterMs, 0, 0),
    seed: count("seed", options.seed, 1),
    queueBytes: count("queueBytes", options.queueBytes, 2 ** 20),
  };
}

/** Numbers in [0, 1) that only depend on the seed. */
function makeRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    // Mulberry32: short, and good enough for delays.
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Longest time that closing waits for the channel below to take the frames that have arrived. */
const CLOSE_GRACE_MS = 5000;

/** What one direction of a link does with its frames. */
interface PipeEnd {
  /** Hands a frame over at the far end; the pipe stands still meanwhile. */
  deliver(frame: Frame): Promise<void>;
  /** Called whenever the queue before the link has become shorter. */
  eased(): void;
}

/**
 * One direction: frames are serialised one after the other, then travel side by side. All times are
 * computed from the times of entry, so that late timers do not add up.
 */
class Pipe {
  readonly #link: Link;
  readonly #end: PipeEnd;
  readonly #random: () => number;
  readonly #waiting: { readonly frame: Frame; readonly leavesAt: number; readonly arrivesAt: number }[] = [];
  #queuedBytes = 0;
  #leftCount = 0;
  #freeAt = 0;
  #lastArrival = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #delivering = false;
  #stopped = false;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(link: Link, seed: number, end: PipeEnd) {
    this.#link = link;
    this.#end = end;
    this.#random = makeRandom(seed);
  }

  /** True if another frame may enter. */
  get open(): boolean {
    return !this.#stopped && this.#queuedBytes < this.#link.queueBytes;
  }

  push(frame: Frame): void {
    if (this.#stopped) return;
    const { bytesPerMs, latencyMs, jitterMs } = this.#link;
    this.#freeAt = Math.max(this.#freeAt, performance.now()) + frame.byteLength / bytesPerMs;
    const arrivesAt = Math.max(this.#lastArrival, this.#freeAt + latencyMs + jitterMs * this.#random());
    this.#lastArrival = arrivesAt;
    this.#queuedBytes += frameCost(frame);
    this.#waiting.push({ frame, leavesAt: this.#freeAt, arrivesAt });
    this.#work();
  }

  /** Resolves once all frames were delivered or dropped, or the far end stands still. */
  async drained(): Promise<void> {
    if (this.#waiting.length === 0 && !this.#delivering) return;
    const idle = this.#idle ??= Promise.withResolvers();
    const limitMs = Math.max(0, this.#lastArrival - performance.now()) + CLOSE_GRACE_MS;
    const timer = setTimeout(() => idle.resolve(), limitMs);
    await idle.promise;
    clearTimeout(timer);
  }

  /** Drops everything. */
  stop(): void {
    this.#stopped = true;
    this.#waiting.length = 0;
    clearTimeout(this.#timer);
    if (!this.#delivering) this.#idle?.resolve();
  }

  #work(): void {
    // Nothing leaves the queue while the far end stands still, which fills it and holds the sender.
    if (this.#stopped || this.#delivering) return;
    clearTimeout(this.#timer);
    const now = performance.now();
    for (
      let next = this.#waiting[this.#leftCount];
      next && next.leavesAt <= now;
      next = this.#waiting[this.#leftCount]
    ) {
      this.#queuedBytes -= frameCost(next.frame);
      this.#leftCount++;
    }
    const first = this.#waiting[0];
    if (first && first.arrivesAt <= now) {
      this.#waiting.shift();
      this.#leftCount--;
      this.#hand(first.frame);
    } else if (first) {
      const leaving = this.#waiting[this.#leftCount]?.leavesAt ?? Infinity;
      this.#timer = setTimeout(() => this.#continue(), Math.max(0, Math.min(first.arrivesAt, leaving) - now));
    } else {
      this.#idle?.resolve();
      this.#idle = undefined;
    }
  }

  #continue(): void {
    this.#work();
    this.#end.eased();
  }

  async #hand(frame: Frame): Promise<void> {
    this.#delivering = true;
    await this.#end.deliver(frame);
    this.#delivering = false;
    if (this.#stopped) this.#idle?.resolve();
    else this.#continue();
  }
}

class LinkWire implements Wire {
  readonly #inner: Channel;
  readonly #channel: WireChannel;
  readonly #queueBytes: number;
  readonly #outgoing: Pipe;
  readonly #incoming: Pipe;
  #room = Promise.withResolvers<void>();

  constructor(inner: Channel, channel: WireChannel, link: Link) {
    this.#inner = inner;
    this.#channel = channel;
    this.#queueBytes = link.queueBytes;
    this.#outgoing = new Pipe(link, link.seed, {
      // No frame may be lost quietly: what cannot be handed on ends the channel.
      deliver: (frame) =>
        inner.send(frame).catch((error) => {
          this.#outgoing.stop();
          inner.close(error instanceof Error ? error.message : String(error));
        }),
      eased: () => channel.wake(),
    });
    this.#incoming = new Pipe(link, link.seed + 1, {
      deliver: (frame) => Promise.resolve(channel.deliver(frame)),
      eased: () => this.#room.resolve(),
    });
    this.#receiveAll();
  }

  ready(): boolean {
    return this.#outgoing.open;
  }

  write(frame: Frame): void {
    this.#outgoing.push(frame);
  }

  taken(): void {
    this.#room.resolve();
  }

  async shutdown(reason: string): Promise<void> {
    await this.#outgoing.drained();
    this.#outgoing.stop();
    this.#incoming.stop();
    this.#room.resolve();
    await this.#inner.close(reason);
  }

  async #receiveAll(): Promise<void> {
    this.#inner.closed.then((info) => {
      this.#channel.endSending(info);
      this.#outgoing.stop();
    });
    while (this.#channel.receiving) {
      const frame = await this.#inner.receive();
      if (!frame) break;
      this.#incoming.push(frame);
      while (this.#channel.receiving && !this.#hasRoom()) {
        this.#room = Promise.withResolvers();
        await this.#room.promise;
      }
    }
    const info = await this.#inner.closed;
    await this.#incoming.drained();
    this.#channel.end(info);
    this.#channel.settle();
  }

  #hasRoom(): boolean {
    return this.#incoming.open && this.#channel.queuedBytes < this.#queueBytes;
  }
}

/**
 * Puts a slow link between a channel and its user, for both directions. The channel must not be used
 * directly any more.
 *
 * @example Usage
 * ```ts
 * import { emulateLinkChannel, inProcessTransport } from "@edgetuner/transport";
 * import { assert } from "@std/assert";
 *
 * const { transport, listener } = inProcessTransport();
 * const link = { bandwidthBytesPerSecond: 1e6, latencyMs: 20 };
 * await using device = emulateLinkChannel(await transport.connect(), link);
 * await using edge = await listener.accept();
 *
 * const start = performance.now();
 * await device.send(new Uint8Array(10_000));
 * await edge?.receive();
 * assert(performance.now() - start >= 29);
 * ```
 *
 * @param channel The channel to slow down.
 * @param options Properties of the link.
 * @returns The channel to use instead.
 * @throws {RangeError} If an option is out of range.
 */
export function emulateLinkChannel(channel: Channel, options: LinkOptions): Channel {
  return wrap(channel, Number.MAX_SAFE_INTEGER, readLink(options));
}

/**
 * Puts a slow link between the two sides of a transport, for both directions of each channel on its
 * own. Connecting takes one round trip longer.
 *
 * @example Usage
 * ```ts
 * import { emulateLink, inProcessTransport } from "@edgetuner/transport";
 * import { assert } from "@std/assert";
 *
 * const { transport, listener } = inProcessTransport();
 * const slow = emulateLink(transport, { bandwidthBytesPerSecond: 1e6, latencyMs: 20 });
 * await using device = await slow.connect();
 * await using edge = await listener.accept();
 *
 * const start = performance.now();
 * await edge?.send(new Uint8Array(10_000));
 * await device.receive();
 * assert(performance.now() - start >= 29);
 * ```
 *
 * @param transport The transport to slow down.
 * @param options Properties of the link.
 * @returns The transport to use instead.
 * @throws {RangeError} If an option is out of range.
 */
export function emulateLink(transport: Transport, options: LinkOptions): Transport {
  const link = readLink(options);
  const { name, flags } = transport;

  async function connect(options: WaitOptions = {}): Promise<Channel> {
    const channel = await transport.connect(options);
    try {
      await sleep(2 * link.latencyMs, options.signal);
    } catch (error) {
      await channel.close();
      throw error;
    }
    return wrap(channel, flags.maxFrameBytes, link);
  }

  return { name: `${name} over an emulated link`, flags, connect };
}

function wrap(inner: Channel, maxFrameBytes: number, link: Link): Channel {
  return new WireChannel(
    { peer: inner.peer, maxFrameBytes },
    (channel) => new LinkWire(inner, channel, link),
  );
}

async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const end = () => resolve();
  signal?.addEventListener("abort", end, { once: true });
  await promise;
  clearTimeout(timer);
  signal?.removeEventListener("abort", end);
  signal?.throwIfAborted();
}
