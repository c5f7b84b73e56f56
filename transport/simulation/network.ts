/**
 * A simulated network: one edge server and any number of devices in one process, on emulated links,
 * in real or in virtual time. In virtual time every party also takes its time to compute.
 *
 * `simulate` runs whole fine-tuning runs on it; a protocol of your own can use it directly.
 *
 * @module
 */

import type { Channel, Listener, Transport } from "@edgetuner/core/contracts";
import { checkCompute, type ComputeModel, type StepShape } from "./compute.ts";
import { type LinkProfile, readLinkProfile } from "./link_profile.ts";
import { Failures } from "./_failures.ts";
import { DeviceParty, EdgeParty, type FrameRule } from "./_timeline.ts";
import { type Clock, realClock } from "./clock.ts";
import { inProcessTransport } from "../in_process.ts";
import { emulateLinkChannel, LinkMedium } from "./link.ts";

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
  #devices = 0;

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
    const near = await this.#transport.connect();
    const far = (await this.#listener.accept())!;
    // Seeds of the devices apart from each other, and each the same whatever the number of devices.
    const seed = (Math.imul(this.#seed, 0x9e3779b1) + Math.imul(device, 0x85ebca6b)) >>> 2 || 1;
    const medium = this.#media.get(link.name) ?? new LinkMedium();
    this.#media.set(link.name, medium);
    const linked = emulateLinkChannel(near, link, { clock, seed, device, medium });
    if (!clock.virtual) return { device: linked, edge: far, computeMs: () => 0 };
    const failures = new Failures(link, device, seed, clock.now());
    const slowness = (atMs: number) => failures.slowness(atMs);
    const party = new DeviceParty(this.#settings(), { device, speed, slowness, counted });
    return {
      device: party.wrap(linked),
      edge: this.#edge.wrap(far),
      computeMs: () => party.busyMs,
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
