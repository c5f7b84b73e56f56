/**
 * A transport inside one process, for tests and simulations.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type Listener,
  type Transport,
  type TransportFlags,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Backlog } from "./_backlog.ts";
import { count, DEFAULT_MAX_FRAME_BYTES, DEFAULT_QUEUE_BYTES } from "./_options.ts";
import { type Frame, type Wire, WireChannel } from "./_wire_channel.ts";

/** Options of {@linkcode inProcessTransport}. */
export interface InProcessOptions {
  /**
   * Largest frame in bytes.
   *
   * @default {67108864}
   */
  readonly maxFrameBytes?: number;
  /**
   * Bytes that may wait in each direction of a channel before `send` waits; one frame may exceed it.
   *
   * @default {4194304}
   */
  readonly queueBytes?: number;
  /**
   * Largest number of channels that are open at the same time.
   *
   * @default {256}
   */
  readonly maxChannels?: number;
}

/** The two ends returned by {@linkcode inProcessTransport}. */
export interface InProcessPair {
  /** The connecting side. */
  readonly transport: Transport;
  /** The accepting side. */
  readonly listener: Listener;
}

class InProcessWire implements Wire {
  readonly #queueBytes: number;
  #other: WireChannel | undefined;

  constructor(queueBytes: number) {
    this.#queueBytes = queueBytes;
  }

  join(other: WireChannel): void {
    this.#other = other;
  }

  ready(): boolean {
    return this.#other !== undefined && this.#other.queuedBytes < this.#queueBytes;
  }

  write(frame: Frame): void {
    // A copy, as over a network: the receiver may change its frame while the sender still reads it.
    this.#other?.deliver(frame.slice());
  }

  taken(): void {
    this.#other?.wake();
  }

  shutdown(reason: string): Promise<void> {
    this.#other?.end({ clean: true, reason });
    this.#other?.settle();
    return Promise.resolve();
  }
}

/**
 * Makes a connected pair: channels opened by `transport` are accepted by `listener`.
 *
 * Queues are bounded, so back-pressure is as real as over a network. Frames are copied.
 *
 * @category Transports
 *
 * @example Usage
 * ```ts
 * import { inProcessTransport } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const { transport, listener } = inProcessTransport();
 * await using device = await transport.connect();
 * await using server = await listener.accept();
 *
 * await device.send(new Uint8Array([1, 2, 3]));
 * assertEquals(await server?.receive(), new Uint8Array([1, 2, 3]));
 * ```
 *
 * @param options Limits.
 * @returns The two ends.
 * @throws {RangeError} If an option is out of range.
 */
export function inProcessTransport(options: InProcessOptions = {}): InProcessPair {
  const maxFrameBytes = count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES);
  const queueBytes = count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES);
  const backlog = new Backlog(count("maxChannels", options.maxChannels, 256));
  const flags: TransportFlags = { duplex: true, ordered: true, remote: false, maxFrameBytes };
  let opened = 0;

  // deno-lint-ignore require-await -- a refusal must reject, not throw
  async function connect({ signal }: WaitOptions = {}): Promise<Channel> {
    signal?.throwIfAborted();
    const refusal = backlog.refusal;
    if (refusal) throw new ChannelClosedError(refusal);
    const wires = [new InProcessWire(queueBytes), new InProcessWire(queueBytes)] as const;
    const near = new WireChannel({ peer: "in-process listener", maxFrameBytes }, () => wires[0]);
    const far = new WireChannel({ peer: `in-process peer ${++opened}`, maxFrameBytes }, () => wires[1]);
    wires[0].join(far);
    wires[1].join(near);
    backlog.offer(far);
    return near;
  }

  return { transport: { name: "in-process", flags, connect }, listener: backlog };
}
