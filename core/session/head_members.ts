/**
 * The devices with heads, as the edge server sees them: who is there, and who is away.
 *
 * @module
 */

import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import {
  ChannelClosedError,
  DeadlineError,
  HandshakeError,
  ProtocolError,
  TrainingError,
} from "../contracts/errors.ts";
import type { LinkStatistics } from "../contracts/links.ts";
import type { HeadRange } from "../lora/allocation.ts";
import type { FrameOf } from "../protocol/frame.ts";
import type { Peer } from "../protocol/peer.ts";
import { readTook } from "../protocol/took.ts";
import type { AnswerTime } from "./run_events.ts";

/** A device that owns heads, as the edge server sees it. */
export interface HeadMember {
  /** Its connection; another one once it has come back. */
  peer: Peer;
  /** Its heads. */
  readonly range: HeadRange;
  /** True while it is away: its heads are pruned in every step. @default {false} */
  isAway?: boolean;
}

/**
 * A head mask in which all heads of devices that are away are pruned too.
 *
 * @param mask [L * H], 1 = pruned; left as it is.
 * @param heads H, heads of a layer.
 * @param members The devices with heads.
 */
export function withAway(
  mask: Uint8Array,
  heads: number,
  members: readonly Pick<HeadMember, "range" | "isAway">[],
): Uint8Array {
  const all = mask.slice();
  for (const head of awayHeads(members)) {
    for (let at = head; at < all.length; at += heads) all[at] = 1;
  }
  return all;
}

/** The heads of every layer whose devices are away, ascending. */
export function awayHeads(members: readonly Pick<HeadMember, "range" | "isAway">[]): number[] {
  return members.filter((m) => m.isAway === true).flatMap(({ range: { first, count } }) =>
    Array.from({ length: count }, (_, i) => first + i)
  ).sort((a, b) => a - b);
}

/** True if an error of a device's own peer is that device's: it is lost, the others are not. */
export function isLoss(error: unknown): boolean {
  return error instanceof ChannelClosedError || error instanceof DeadlineError ||
    error instanceof ProtocolError || error instanceof HandshakeError || error instanceof TrainingError;
}

/** What a device's gradients add to the squared norm of a step; below 0 the device is lost. */
export function squareOf({ step, tensors }: FrameOf<"squaredNorm">, peer: Peer): number {
  const square = tensors[0]!.data[0]!;
  if (square >= 0) return square;
  const error = new ProtocolError(
    `Cannot clip step ${step} as the squared norm of ${peer.name} must not be negative: current value is ${square}`,
  );
  peer.failWith(error);
  throw error;
}

/**
 * How long one device keeps the others waiting in a step: the time in which it has at least one question to answer.
 */
export class AnswerClock {
  readonly #limitMs: number;
  readonly #late: () => void;
  readonly #clock: RunClock;
  #open = 0;
  #since = 0;
  #spentMs = 0;
  #computeMs: number | null = null;
  #cancel: () => void = () => {};

  /**
   * A clock for one device and step.
   *
   * @param limitMs Longest time in milliseconds; `Infinity` for none.
   * @param late Called once if it takes longer.
   * @param clock Where the time comes from. @default {WALL_CLOCK}
   */
  constructor(limitMs: number, late: () => void, clock: RunClock = WALL_CLOCK) {
    this.#clock = clock;
    this.#limitMs = limitMs;
    this.#late = late;
  }

  /** Milliseconds in which the device was asked something, so far. */
  get spentMs(): number {
    return this.#spentMs;
  }

  /** Milliseconds of it in which the device had a question, as it tells; `null` if it tells nothing. */
  get computeMs(): number | null {
    return this.#computeMs === null ? null : Math.min(this.#computeMs, this.#spentMs);
  }

  /**
   * An answer came.
   *
   * @param took What the device says of how long it had the question, see `AnswerMeta`.
   * @param ms Milliseconds since the question left, which it cannot be longer than.
   */
  hear(took: string | undefined, ms: number): void {
    const told = readTook(took);
    if (told !== null) this.#computeMs = (this.#computeMs ?? 0) + Math.min(told, ms);
  }

  /** A question leaves, or left then. */
  ask(at: number = this.#clock.now()): void {
    if (this.#open++ > 0) return;
    this.#since = at;
    if (this.#limitMs === Infinity) return;
    this.#cancel = this.#clock.schedule(this.#since + Math.max(0, this.#limitMs - this.#spentMs), this.#late);
  }

  /** It is answered, or nobody waits any more. */
  answered(): void {
    if (--this.#open > 0) return;
    this.#cancel();
    this.#spentMs += this.#clock.now() - this.#since;
  }
}

/**
 * A clock for each device, which is lost when it takes too long.
 *
 * @param devices The devices.
 * @param limit Longest time in milliseconds (`Infinity`), and where the time comes from (`WALL_CLOCK`).
 */
export function answerClocks(
  devices: readonly HeadMember[],
  { limitMs = Infinity, clock }: {
    readonly limitMs?: number | undefined;
    readonly clock?: RunClock | undefined;
  },
): ReadonlyMap<HeadMember, AnswerClock> {
  return new Map(devices.map((device) => [device, stepClock(device.peer, { limitMs, clock })]));
}

/** A clock that loses a device which keeps the others waiting in a step for longer than it may. */
export function stepClock(
  peer: Peer,
  { limitMs, clock }: { readonly limitMs: number; readonly clock?: RunClock | undefined },
): AnswerClock {
  const late = () =>
    peer.failWith(
      new DeadlineError(
        `Cannot go on with ${peer.name} as its part of a step must take at most ${
          limitMs / 1000
        } s: it took longer`,
      ),
    );
  return new AnswerClock(limitMs, late, clock);
}

/** What a clock shows after a step. */
export function spentTimes(
  { spentMs: ms, computeMs }: AnswerClock,
): Pick<AnswerTime, "ms" | "computeMs"> {
  return computeMs === null ? { ms } : { ms, computeMs };
}

/**
 * How long devices took to answer; those that were asked nothing are left out.
 *
 * @param clocks The clock of each device, in order of their heads.
 * @param links What their links take, where that is measured.
 */
export function answerTimes(
  clocks: ReadonlyMap<HeadMember, AnswerClock>,
  links: LinkStatistics | null,
): AnswerTime[] {
  return [...clocks].flatMap(([{ range: { first } }, clock], i) => {
    const link = links?.devices[i] ?? null;
    const times = spentTimes(clock);
    if (times.ms === 0) return [];
    if (link === null) return [{ first, ...times }];
    const { roundTripSeconds, bytesPerSecond } = link;
    return [{ first, ...times, link: { roundTripSeconds, bytesPerSecond } }];
  });
}
