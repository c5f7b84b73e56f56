/**
 * Channels between threads: a peer's frames handed on to a worker and back, so that the thread that
 * serves sockets never waits for a GPU.
 *
 * @module
 */

import type { Channel, CloseInfo } from "@edgetuner/core/contracts";
import { DEFAULT_QUEUE_BYTES } from "./_options.ts";
import { type Frame, frameCost, type Wire, WireChannel } from "./_wire_channel.ts";

/** Largest frame between threads: no limit of its own, the transport behind it has one. */
const MAX_FRAME_BYTES = 2 ** 31 - 1;

/** What the two ends say to each other. */
type PortMessage =
  | { readonly type: "frame"; readonly frame: Frame }
  | { readonly type: "taken"; readonly cost: number }
  | { readonly type: "limit"; readonly bytes: number }
  | { readonly type: "end"; readonly info: CloseInfo };

/** Longest time until one of the last frames is taken, in milliseconds: as long as a farewell may take. */
const LAST_FRAME_MS = 5000;

class MessagePortWire implements Wire {
  readonly #port: MessagePort;
  readonly #channel: WireChannel;
  #outstanding = 0;

  constructor(port: MessagePort, channel: WireChannel) {
    this.#port = port;
    this.#channel = channel;
    port.onmessage = ({ data }: MessageEvent<PortMessage>) => this.#hear(data);
  }

  ready(): boolean {
    return this.#outstanding < DEFAULT_QUEUE_BYTES;
  }

  write(frame: Frame): void {
    this.#outstanding += frameCost(frame);
    // A copy of its own, to be moved instead of cloned.
    const moved = frame.slice();
    this.#post({ type: "frame", frame: moved }, [moved.buffer]);
  }

  taken(frame: Frame): void {
    this.#post({ type: "taken", cost: frameCost(frame) });
  }

  limitReceived(bytes: number): void {
    this.#post({ type: "limit", bytes });
  }

  shutdown(reason: string): Promise<void> {
    // Whoever does not wait here does not want anyone to wait behind it either.
    this.#post({ type: "end", info: { clean: !this.#channel.cut.aborted, reason } });
    this.#port.close();
    return Promise.resolve();
  }

  #post(message: PortMessage, move: ArrayBuffer[] = []): void {
    this.#port.postMessage(message, move);
  }

  #hear(message: PortMessage): void {
    if (message.type === "frame") this.#channel.deliver(message.frame);
    else if (message.type === "taken") {
      this.#outstanding -= message.cost;
      this.#channel.wake();
    } else if (message.type === "limit") this.#channel.limitHandedOn(message.bytes);
    else {
      this.#channel.end(message.info);
      this.#port.close();
      this.#channel.settle();
    }
  }
}

/**
 * A channel over one end of a `MessageChannel`; the other end is in another thread.
 *
 * @param port The end.
 * @param peer Name of the peer, for messages to people.
 * @category Transports
 */
export function messagePortChannel(port: MessagePort, peer: string): Channel {
  return new WireChannel(
    { peer, maxFrameBytes: MAX_FRAME_BYTES },
    (channel) => new MessagePortWire(port, channel),
  );
}

/**
 * Hands frames on between two channels, in both directions, until one of them ends; then ends the
 * other. Back-pressure passes through: a frame is only received once the last one was sent. Of a channel that
 * ended on purpose the last frames are handed on first; where one broke, nobody waits. Nobody waits for ever for a
 * side that takes nothing either.
 *
 * @param options `lastFrameMs`: longest time until one of the last frames is taken, in milliseconds, 5000 by default.
 */
export async function relay(
  a: Channel,
  b: Channel,
  { lastFrameMs = LAST_FRAME_MS }: { readonly lastFrameMs?: number } = {},
): Promise<void> {
  await Promise.all([handOn(a, b, lastFrameMs), handOn(b, a, lastFrameMs)]);
}

async function handOn(from: Channel, to: Channel, lastFrameMs: number): Promise<void> {
  const broken = new AbortController();
  let isLast = false;
  let isOver = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = () => {
    clearTimeout(timer);
    timer = setTimeout(() => broken.abort(), lastFrameMs);
  };
  from.closed.then(({ clean }) => {
    if (!clean) return broken.abort();
    isLast = true;
    if (!isOver) limit();
  });
  try {
    // What the far end wants to be limited is limited where the frames come from.
    if (to instanceof WireChannel) to.limitHandedOn = (bytes) => from.limitReceived?.(bytes);
    for (;;) {
      const frame = await from.receive();
      if (frame === null) break;
      await to.send(frame, { signal: broken.signal });
      if (isLast) limit();
    }
  } catch {
    // The other side has ended, or takes nothing: so does this one, below.
  }
  const { reason } = await Promise.race([from.closed, to.closed]);
  isOver = true;
  clearTimeout(timer);
  await Promise.all([from.close(reason), to.close(reason, { signal: broken.signal })]);
}
