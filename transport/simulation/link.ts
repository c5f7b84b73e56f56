/**
 * Emulated links around any transport, in real or in virtual time, so that a program can be tried under the
 * bandwidth, the delays, the losses and the failures of a home connection or a mobile network
 * without leaving the machine. `LinkProfile` says how a link behaves.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  type Transport,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import {
  DEFAULT_MTU_BYTES,
  type LinkDirection,
  type LinkProfile,
  occupiedMs,
  readLinkProfile,
  resendMs,
} from "./link_profile.ts";
import { Failures } from "./_failures.ts";
import { amount, count } from "../_options.ts";
import { drawCount, makeRandom } from "./_random.ts";
import { type Frame, frameCost, type Wire, WireChannel } from "../_wire_channel.ts";
import { type Clock, realClock, until } from "./clock.ts";

/** A link that is the same in both directions; see `LinkProfile` for more. */
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
}

/** What devices on a shared link share: when it is free. */
export class LinkMedium {
  /** Time of the clock in milliseconds from which nothing occupies it. */
  freeAt = 0;
}

/** How a link is emulated. */
export interface EmulationOptions {
  /**
   * Where the time comes from.
   *
   * @default {realClock()}
   */
  readonly clock?: Clock;
  /**
   * Seed of jitter, losses and failures: the same seed gives the same ones.
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
  /**
   * Number of the device that connects, for failures that concern a certain one.
   *
   * @default {no certain one}
   */
  readonly device?: number;
  /**
   * On which end of the link the channel's user is: a device sends up, the edge server down.
   *
   * @default {"device"}
   */
  readonly side?: "device" | "edge";
  /**
   * What the channel shares with others if the profile is of a shared link.
   *
   * @default {a new one: shared by both directions, and by all channels of an emulated transport}
   */
  readonly medium?: LinkMedium;
}

interface Link {
  readonly medium: LinkMedium | null;
  readonly profile: LinkProfile;
  readonly clock: Clock;
  readonly seed: number;
  readonly queueBytes: number;
  readonly failures: Failures;
  readonly side: "device" | "edge";
  /** Cuts it when it is aborted. */
  readonly cut?: AbortSignal | undefined;
}

function readLink(link: LinkOptions | LinkProfile, options: EmulationOptions): Link {
  const profile = "up" in link ? readLinkProfile(link) : symmetric(link);
  const clock = options.clock ?? realClock();
  const seed = count("seed", options.seed, 1);
  return {
    medium: profile.shared ? options.medium ?? new LinkMedium() : null,
    profile,
    clock,
    seed,
    queueBytes: count("queueBytes", options.queueBytes, 2 ** 20),
    failures: new Failures(profile, options.device, { seed, startMs: clock.now() }),
    side: options.side ?? "device",
  };
}

function symmetric(link: LinkOptions): LinkProfile {
  const direction: LinkDirection = {
    bandwidthMbit: amount("bandwidthBytesPerSecond", link.bandwidthBytesPerSecond, 0, 1) * 8 / 1e6,
    latencyMs: amount("latencyMs", link.latencyMs, 0, 0),
    jitterMs: amount("jitterMs", link.jitterMs, 0, 0),
  };
  return { name: "symmetric", up: direction, down: direction };
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
  readonly #direction: LinkDirection;
  readonly #end: PipeEnd;
  readonly #random: () => number;
  readonly #waiting: { readonly frame: Frame; readonly leavesAt: number; readonly arrivesAt: number }[] = [];
  #queuedBytes = 0;
  #leftCount = 0;
  readonly #medium: LinkMedium;
  #lastArrival = 0;
  #cancelTimer: () => void = () => {};
  #delivering = false;
  #stopped = false;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(link: Link, way: "up" | "down", end: PipeEnd) {
    this.#link = link;
    this.#direction = link.profile[way];
    this.#medium = link.medium ?? new LinkMedium();
    this.#end = end;
    this.#random = makeRandom(2 * link.seed + (way === "up" ? 0 : 1));
  }

  /** True if another frame may enter. */
  get open(): boolean {
    return !this.#stopped && this.#queuedBytes < this.#link.queueBytes;
  }

  /** Takes a frame in, which is held back for some time first. */
  push(frame: Frame, heldMs = 0): void {
    if (this.#stopped) return;
    const { profile, clock } = this.#link;
    const { latencyMs, jitterMs = 0, loss = 0 } = this.#direction;
    const mtu = profile.mtuBytes ?? DEFAULT_MTU_BYTES;
    let bytes = frame.byteLength;
    let resends = 0;
    // What was lost occupies the link again, and what is lost of that once more.
    for (
      let lost = drawCount(Math.ceil(frame.byteLength / mtu), loss, this.#random);
      lost > 0;
      lost = drawCount(lost, loss, this.#random)
    ) {
      bytes += lost * Math.min(mtu, frame.byteLength);
      resends++;
    }
    const weakness = this.#link.failures.weakness(clock.now());
    const leavesAt = Math.max(this.#medium.freeAt, clock.now() + heldMs) +
      weakness * occupiedMs(this.#direction, bytes);
    this.#medium.freeAt = leavesAt;
    const delay = weakness * latencyMs + jitterMs * this.#random() + resends * resendMs(profile);
    const arrivesAt = Math.max(this.#lastArrival, leavesAt + delay);
    this.#lastArrival = arrivesAt;
    this.#queuedBytes += frameCost(frame);
    this.#waiting.push({ frame, leavesAt, arrivesAt });
    this.#work();
  }

  /** Resolves once all frames were delivered or dropped, the far end stands still, or the signal aborts. */
  async drained(cut: AbortSignal): Promise<void> {
    if ((this.#waiting.length === 0 && !this.#delivering) || cut.aborted) return;
    const idle = this.#idle ??= Promise.withResolvers();
    const { clock } = this.#link;
    const giveUpAt = Math.max(clock.now(), this.#lastArrival) + CLOSE_GRACE_MS;
    const end = () => idle.resolve();
    const cancel = clock.schedule(giveUpAt, end);
    cut.addEventListener("abort", end, { once: true });
    await idle.promise;
    cancel();
    cut.removeEventListener("abort", end);
  }

  /** Drops everything. */
  stop(): void {
    this.#stopped = true;
    this.#waiting.length = 0;
    this.#cancelTimer();
    if (!this.#delivering) this.#idle?.resolve();
  }

  #work(): void {
    // Nothing leaves the queue while the far end stands still, which fills it and holds the sender.
    if (this.#stopped || this.#delivering) return;
    this.#cancelTimer();
    const { clock } = this.#link;
    const now = clock.now();
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
      this.#cancelTimer = clock.schedule(Math.min(first.arrivesAt, leaving), () => this.#continue());
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
  readonly #link: Link;
  readonly #outgoing: Pipe;
  readonly #incoming: Pipe;
  readonly #cancelCut: () => void;
  #room = Promise.withResolvers<void>();
  #deliveredAt: number;

  constructor(inner: Channel, channel: WireChannel, link: Link) {
    this.#inner = inner;
    this.#channel = channel;
    this.#link = link;
    this.#deliveredAt = link.clock.now();
    const [out, back] = link.side === "device" ? ["up", "down"] as const : ["down", "up"] as const;
    this.#outgoing = new Pipe(link, out, {
      // No frame may be lost quietly: what cannot be handed on ends the channel.
      deliver: (frame) =>
        inner.send(frame).catch((error) => {
          this.#outgoing.stop();
          inner.close(error instanceof Error ? error.message : String(error));
        }),
      eased: () => channel.wake(),
    });
    this.#incoming = new Pipe(link, back, {
      deliver: (frame) => {
        this.#deliveredAt = link.clock.now();
        return Promise.resolve(channel.deliver(frame));
      },
      eased: () => this.#room.resolve(),
    });
    const cutAt = link.failures.nextCut(link.clock.now());
    const cut = () => this.#cut();
    const cancel = cutAt === Infinity ? () => {} : link.clock.schedule(cutAt, cut);
    link.cut?.addEventListener("abort", cut, { once: true });
    this.#cancelCut = () => {
      cancel();
      link.cut?.removeEventListener("abort", cut);
    };
    this.#receiveAll();
  }

  ready(): boolean {
    return this.#outgoing.open;
  }

  write(frame: Frame): void {
    const { clock, failures } = this.#link;
    const now = clock.now();
    // In virtual time whoever keeps account of the device's work makes it slow.
    this.#outgoing.push(
      frame,
      clock.virtual ? 0 : (failures.slowness(now) - 1) * (now - this.#deliveredAt),
    );
  }

  taken(): void {
    this.#room.resolve();
  }

  limitReceived(bytes: number): void {
    // A frame that is too large is not taken off the real link either.
    this.#inner.limitReceived?.(bytes);
  }

  async shutdown(reason: string): Promise<void> {
    const { cut } = this.#channel;
    await this.#outgoing.drained(cut);
    this.#stop();
    await this.#inner.close(reason, { signal: cut });
  }

  #stop(): void {
    this.#cancelCut();
    this.#outgoing.stop();
    this.#incoming.stop();
    this.#room.resolve();
  }

  /** The link is gone: what is under way is lost, and both ends are told. */
  #cut(): void {
    const reason = `the emulated link was cut at ${Math.round(this.#link.clock.now())} ms`;
    this.#stop();
    this.#channel.end({ clean: false, reason });
    this.#channel.settle();
    this.#inner.close(reason);
  }

  async #receiveAll(): Promise<void> {
    this.#inner.closed.then((info) => {
      this.#cancelCut();
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
    await this.#incoming.drained(this.#channel.cut);
    this.#channel.end(info);
    this.#channel.settle();
  }

  #hasRoom(): boolean {
    return this.#incoming.open && this.#channel.queuedBytes < this.#link.queueBytes;
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
 * @param link What the link is like.
 * @param options How it is emulated.
 * @returns The channel to use instead.
 * @throws {RangeError} If a number is out of range.
 * @throws {TypeError} If the profile is not one.
 */
export function emulateLinkChannel(
  channel: Channel,
  link: LinkOptions | LinkProfile,
  options: EmulationOptions = {},
): Channel {
  return wrap(channel, Number.MAX_SAFE_INTEGER, readLink(link, options));
}

/**
 * Puts a slow link between the two sides of a transport, for both directions of each channel on its
 * own. Connecting takes one round trip longer.
 *
 * @category Simulation
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
 * Failures of a profile count their times from this call. A channel whose link is cut ends on both
 * sides, with the reason; until the link is back connecting fails.
 *
 * @param transport The transport to slow down; its connecting side is the device.
 * @param link What the link is like.
 * @param options How it is emulated.
 * @returns The transport to use instead.
 * @throws {RangeError} If a number is out of range.
 * @throws {TypeError} If the profile is not one.
 */
export function emulateLink(
  transport: Transport,
  link: LinkOptions | LinkProfile,
  options: EmulationOptions = {},
): Transport {
  const emulated = readLink(link, options);
  const { clock, failures, profile } = emulated;
  const { name, flags } = transport;

  async function connect(options: WaitOptions = {}): Promise<Channel> {
    const refuseIfGone = () => {
      if (!failures.isGone(clock.now())) return;
      throw new ChannelClosedError("Cannot connect as the emulated link must be there: it is cut");
    };
    refuseIfGone();
    const channel = await transport.connect(options);
    try {
      await until(clock, clock.now() + profile.up.latencyMs + profile.down.latencyMs, options.signal);
      refuseIfGone();
    } catch (error) {
      await channel.close();
      throw error;
    }
    return wrap(channel, flags.maxFrameBytes, emulated);
  }

  return { name: `${name} over an emulated link`, flags, connect };
}

/**
 * As `emulateLinkChannel`, for one of several connections of a device, whose failures go on.
 *
 * `seed` is that of jitter and losses, another one for each connection; `cut` cuts the link when it is aborted.
 */
export function emulateFailingChannel(
  channel: Channel,
  profile: LinkProfile,
  { failures, cut, ...options }:
    & Pick<EmulationOptions, "clock" | "seed" | "medium">
    & Pick<Link, "failures" | "cut">,
): Channel {
  return wrap(channel, Number.MAX_SAFE_INTEGER, { ...readLink(profile, options), failures, cut });
}

function wrap(inner: Channel, maxFrameBytes: number, link: Link): Channel {
  return new WireChannel(
    { peer: inner.peer, maxFrameBytes },
    (channel) => new LinkWire(inner, channel, link),
  );
}
