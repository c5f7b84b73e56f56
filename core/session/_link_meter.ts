/**
 * What answers of devices say of their links: how long they take, by how many heads they are for.
 *
 * @module
 */

import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import type { DeviceLink, LinkStatistics } from "../contracts/links.ts";
import type { HeadStep } from "../contracts/ports.ts";
import type { StepMessage } from "../protocol/pass.ts";
import { codedBytes } from "../protocol/run_codecs.ts";
import { messageBytes } from "../protocol/traffic.ts";
import type { HeadMember } from "./head_members.ts";
import type { DeviceShare } from "./_layer_plans.ts";
import type { RemoteHeadsOptions } from "./remote_heads_options.ts";

/** An answer of a device. */
interface MeasuredAnswer {
  readonly way: "forward" | "backward";
  /** Kept heads; with micro-batches each counts as its share of the step. */
  readonly heads: number;
  /** Milliseconds from when the question left. */
  readonly ms: number;
}

/** Frames of a device in a layer with kept heads: X and Deltas, and the gradients of both. */
const FRAMES_PER_LAYER = 4;
/** Bytes around the tensors of a frame, about. */
const ENVELOPE_BYTES = 108;
/** Share of what was measured that still counts a step later: links change. */
const MEMORY = 0.8;
/** How much an estimate holds on to the one before where the answers do not tell its parts apart. */
const INERTIA = 0.002;

/** Takes answers in, step after step. */
export class LinkMeter {
  readonly #devices: readonly HeadMember[];
  readonly #clock: RunClock;
  readonly #fits: readonly AnswerFit[];
  readonly #bytesPerHead = { forward: { down: 0, up: 0 }, backward: { down: 0, up: 0 } };
  #microBatches = 1;
  #before: { readonly atMs: number; readonly bytes: number } | null = null;
  #last: LinkStatistics["lastStep"] | null = null;

  /** For these devices, in order of their heads. */
  constructor({ devices, clock = WALL_CLOCK }: Pick<RemoteHeadsOptions, "devices" | "clock">) {
    this.#devices = devices;
    this.#clock = clock;
    this.#fits = devices.map(() => new AnswerFit());
  }

  /** A device has answered, so many milliseconds after the question left. */
  answered(
    { device, kept }: DeviceShare,
    [question, answer]: readonly [StepMessage, StepMessage],
    ms: number,
  ): void {
    const bytes = codedBytes(device.peer.codecs);
    const way = answer.kind === "delta" ? "forward" : "backward";
    const heads = kept / this.#microBatches;
    this.#fits[this.#devices.indexOf(device)]!.add({ way, heads, ms });
    this.#bytesPerHead[way] = {
      down: messageBytes(question, bytes) / heads,
      up: messageBytes(answer, bytes) / heads,
    };
  }

  /** A step begins. */
  begin({ mode, microBatches = [] }: HeadStep): void {
    this.#microBatches = Math.max(1, microBatches.length);
    if (mode !== "train") this.#before = null;
    else this.#before ??= this.#now;
  }

  /** A step is over; it counts if it was one of training. */
  end({ mode }: HeadStep): void {
    const [before, now] = [this.#before, this.#now];
    this.#before = mode === "train" ? now : null;
    if (mode !== "train" || before === null) return;
    this.#last = { seconds: (now.atMs - before.atMs) / 1000, bytes: now.bytes - before.bytes };
    for (const fit of this.#fits) fit.fade();
  }

  get #now(): { readonly atMs: number; readonly bytes: number } {
    return { atMs: this.#clock.now(), bytes: this.#devices[0]!.peer.ledger.totalBytes };
  }

  /** What is known; `null` before the first training step is over. */
  get statistics(): LinkStatistics | null {
    if (this.#last === null) return null;
    const { forward, backward } = this.#bytesPerHead;
    return {
      devices: this.#fits.map((fit) => fit.link(this.#bytesPerHead)),
      bytesPerHead: { down: forward.down + backward.down, up: forward.up + backward.up },
      bytesPerDevice: FRAMES_PER_LAYER * this.#microBatches * ENVELOPE_BYTES,
      lastStep: this.#last,
    };
  }
}

/** Least squares of a device's answers one way: ms = round trip + heads * (ms of a head). */
class WayFit {
  #count = 0;
  #heads = 0;
  #squares = 0;
  #ms = 0;
  #products = 0;
  /** Milliseconds of a round trip and of a head; `null` before the first step is over. */
  parts: { readonly roundTrip: number; readonly head: number } | null = null;

  add({ heads, ms }: MeasuredAnswer): void {
    this.#count++;
    this.#heads += heads;
    this.#squares += heads * heads;
    this.#ms += ms;
    this.#products += heads * ms;
  }

  /** A step is over: what it has shown is made an estimate of, and counts less from now on. */
  fade(): void {
    if (this.#count < 1e-3) return; // nothing was asked
    this.parts = this.#solve();
    this.#count *= MEMORY;
    this.#heads *= MEMORY;
    this.#squares *= MEMORY;
    this.#ms *= MEMORY;
    this.#products *= MEMORY;
  }

  #solve(): NonNullable<WayFit["parts"]> {
    const mean = this.#ms / this.#count;
    const heads = this.#heads / this.#count;
    // Where all answers were for as many heads, a round trip cannot be told from heads: the estimate then stays near
    // the one before, and the first takes half for each.
    const before = this.parts ?? { roundTrip: mean / 2, head: mean / 2 / heads };
    const inertia = INERTIA * heads * heads;
    const variance = Math.max(0, this.#squares / this.#count - heads * heads);
    const covariance = this.#products / this.#count - heads * mean;
    // How much of a change of the mean is the heads', if nothing else says it.
    const share = before.roundTrip + before.head * heads > 0
      ? mean / (before.roundTrip + before.head * heads)
      : 1;
    const head = (covariance + inertia * before.head * share) / (variance + inertia);
    const within = Math.min(Math.max(0, head), mean / heads);
    return { roundTrip: mean - within * heads, head: within };
  }
}

/** What a device's answers say. */
class AnswerFit {
  readonly #ways = { forward: new WayFit(), backward: new WayFit() };
  /** The first question of the step comes behind the last gradients of the one before, which have no answer. */
  #first: MeasuredAnswer | null = null;
  #isFirstAlone = true;

  add(answer: MeasuredAnswer): void {
    if (answer.way === "forward" && this.#first === null) {
      this.#first = answer;
      return;
    }
    if (answer.way === "forward") this.#isFirstAlone = false;
    this.#ways[answer.way].add(answer);
  }

  fade(): void {
    if (this.#isFirstAlone && this.#first !== null) this.#ways.forward.add(this.#first);
    this.#first = null;
    this.#isFirstAlone = true;
    this.#ways.forward.fade();
    this.#ways.backward.fade();
  }

  link(bytes: Parameters<typeof bandwidths>[0]): DeviceLink | null {
    // Where only the lowest layer has kept heads nothing is answered on the way back.
    const forward = this.#ways.forward.parts;
    if (forward === null) return null;
    const backward = this.#ways.backward.parts ?? forward;
    const seconds = { forward: forward.head / 1000, backward: backward.head / 1000 };
    return {
      roundTripSeconds: (forward.roundTrip + backward.roundTrip) / 2000,
      secondsPerHead: seconds,
      bytesPerSecond: bandwidths(bytes, seconds),
    };
  }
}

/** Bandwidths with which transfer alone takes what heads take. */
function bandwidths(
  { forward: f, backward: b }: Readonly<
    Record<"forward" | "backward", { readonly down: number; readonly up: number }>
  >,
  seconds: DeviceLink["secondsPerHead"],
): DeviceLink["bytesPerSecond"] {
  const total = seconds.forward + seconds.backward;
  if (!(total > 0)) return null;
  const both = (f.down + f.up + b.down + b.up) / total;
  const determinant = f.down * b.up - b.down * f.up;
  if (determinant === 0) return { down: both, up: both };
  const down = (seconds.forward * b.up - seconds.backward * f.up) / determinant;
  const up = (seconds.backward * f.down - seconds.forward * b.down) / determinant;
  // Where no two bandwidths explain both ways, compute is much of it.
  return down > 0 && up > 0 ? { down: 1 / down, up: 1 / up } : { down: both, up: both };
}
