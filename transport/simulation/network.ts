/**
 * A simulated network: one edge server and any number of devices in one process, on emulated links,
 * in real or in virtual time. In virtual time every party also takes its time to compute.
 *
 * `simulate` runs whole fine-tuning runs on it; a protocol of your own can use it directly.
 *
 * @module
 */

import { type Channel, ChannelClosedError, type Listener, type Transport } from "@edgetuner/core/contracts";
import { checkCompute, type ComputeModel, type StepShape } from "./compute.ts";
import { type LinkProfile, readLinkProfile } from "./link_profile.ts";
import { Failures, serverFailures, type Span } from "./_failures.ts";
import { DeviceParty, EdgeParty, type FrameRule } from "./_timeline.ts";
import { type Clock, realClock, until } from "./clock.ts";
import { inProcessTransport } from "../in_process.ts";
import { emulateFailingChannel, LinkMedium } from "./link.ts";

export type { FrameRule, FrameWork } from "./_timeline.ts";

/** Options of {@linkcode SimulatedNetwork}. */
export interface SimulatedNetworkOptions {
  /** Shapes of model and LoRA, from which follows what a frame costs. */
  readonly size: Omit<StepShape, "length">;
  /** How fast the parties compute; without effect in real time, where they really do. */
  readonly compute: ComputeModel;
  /** Where the time comes from: `virtualClock(...)`, or the real one. @default {realClock()} */
  readonly clock?: Clock;
  /** Seed of jitter, losses and failures. @default {1} */
  readonly seed?: number;
  /** Work that comes with kinds of frames that are not of the step protocol. @default {{}} */
  readonly rules?: Readonly<Record<string, FrameRule>>;
  /** False if the edge server computes nothing while it waits for devices. @default {true} */
  readonly overlap?: boolean;
  /**
   * Links of all devices, where the edge server may be lost: then they are cut at the same times.
   *
   * @default {[]: each link says it for itself}
   */
  readonly links?: readonly LinkProfile[];
}

/** Options of `SimulatedNetwork.connect`. */
export interface NetworkDeviceOptions {
  /** The device's link. */
  readonly link: LinkProfile;
  /** How many times as fast as the compute model's device it is. @default {1} */
  readonly speed?: number;
  /** Tokens whose loss counts of a step with so many; of interest for a data device. @default {all} */
  readonly counted?: (tokens: number) => number;
}

/** A device on a simulated network. */
export interface NetworkDevice {
  /** The device's end of its channel. */
  readonly device: Channel;
  /** The edge server's end. */
  readonly edge: Channel;
  /** Milliseconds that it has computed; 0 in real time. */
  computeMs(): number;
  /**
   * Connects it anew after its link was cut, which takes a round trip.
   *
   * @returns Both ends of the new channel.
   * @throws {ChannelClosedError} If the link is still cut.
   */
  connectAgain(signal?: AbortSignal): Promise<Pick<NetworkDevice, "device" | "edge">>;
}

/** An edge server and its devices on emulated links. */
export class SimulatedNetwork implements AsyncDisposable {
  /** Where the time comes from. */
  readonly clock: Clock;
  readonly #options: SimulatedNetworkOptions;
  readonly #seed: number;
  readonly #transport: Transport;
  readonly #listener: Listener;
  readonly #edge: EdgeParty;
  /** By name of the profile. */
  readonly #media = new Map<string, LinkMedium>();
  readonly #server: readonly Span[] | undefined;
  #devices = 0;
  #cut = new AbortController();

  /**
   * An edge server alone; devices come by `connect`.
   *
   * @throws {RangeError} If a speed of the compute model is out of range.
   */
  constructor(options: SimulatedNetworkOptions) {
    this.#options = { ...options, compute: checkCompute(options.compute) };
    this.clock = options.clock ?? realClock();
    this.#seed = options.seed ?? 1;
    const { transport, listener } = inProcessTransport({ maxChannels: 1024 });
    this.#transport = transport;
    this.#listener = listener;
    this.#edge = new EdgeParty(this.#settings());
    const { links } = options;
    this.#server = links && serverFailures([...new Set(links)], this.#seed, this.clock.now());
  }

  /** Cuts all links at once, as when the edge server is killed: what is under way is lost. */
  cutAll(): void {
    const cut = this.#cut;
    this.#cut = new AbortController();
    cut.abort();
  }

  /** When the edge server is lost and there again, in milliseconds of the clock, ascending; see `links`. */
  get serverGone(): readonly { readonly fromMs: number; readonly toMs: number }[] {
    return this.#server ?? [];
  }

  /** The edge server's time in milliseconds: not before it has done its work. For `EdgeServerOptions.now`. */
  edgeNow(): number {
    return this.#edge.now();
  }

  /** Milliseconds that the edge server has computed; 0 in real time. */
  edgeComputeMs(): number {
    return this.#edge.busyMs;
  }

  /**
   * Connects a device. Failures of its link count their times from then. Devices on shared links of the same
   * name share one.
   *
   * @returns Both ends of its channel.
   * @throws {RangeError} If a number of the link or the speed is out of range.
   * @throws {TypeError} If the link's profile is not one.
   */
  async connect(options: NetworkDeviceOptions): Promise<NetworkDevice> {
    const { speed = 1, counted = (tokens: number) => tokens } = options;
    const link = readLinkProfile(options.link);
    if (!(speed > 0 && speed < Infinity)) {
      throw new RangeError(
        `Cannot connect the device as its speed must be positive: current value is ${speed}`,
      );
    }
    const device = this.#devices++;
    const { clock } = this;
    // Seeds of the devices apart from each other, and each the same whatever the number of devices.
    const seed = (Math.imul(this.#seed, 0x9e3779b1) + Math.imul(device, 0x85ebca6b)) >>> 2 || 1;
    const medium = this.#media.get(link.name) ?? new LinkMedium();
    this.#media.set(link.name, medium);
    const failures = new Failures(link, device, { seed, startMs: clock.now(), server: this.#server });
    const slowness = (atMs: number) => failures.slowness(atMs);
    const party = clock.virtual
      ? new DeviceParty(this.#settings(), { device, speed, slowness, counted })
      : null;
    let connections = 0;
    const open = async () => {
      const near = await this.#transport.connect();
      const far = (await this.#listener.accept())!;
      const linkSeed = (seed + Math.imul(connections++, 0xc2b2ae35)) >>> 2 || 1;
      const linked = emulateFailingChannel(near, link, {
        ...{ clock, medium, failures, cut: this.#cut.signal },
        seed: connections === 1 ? seed : linkSeed,
      });
      return party === null
        ? { device: linked, edge: far }
        : { device: party.wrap(linked), edge: this.#edge.wrap(far) };
    };
    return {
      ...await open(),
      computeMs: () => party?.busyMs ?? 0,
      async connectAgain(signal) {
        requireThere(failures, clock);
        await until(clock, clock.now() + link.up.latencyMs + link.down.latencyMs, signal);
        requireThere(failures, clock);
        return await open();
      },
    };
  }

  /** Takes no more devices. Open channels stay their users'. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener[Symbol.asyncDispose]();
  }

  #settings() {
    const { size, compute, rules = {}, overlap = true } = this.#options;
    return { clock: this.clock, size, compute, rules, overlap };
  }
}

function requireThere(failures: Failures, clock: Clock): void {
  if (!failures.isGone(clock.now())) return;
  throw new ChannelClosedError("Cannot connect as the emulated link must be there: it is cut");
}
