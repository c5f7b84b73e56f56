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
import type { Peer } from "../protocol/peer.ts";
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

  /** A question leaves. */
  ask(): void {
    if (this.#open++ > 0) return;
    this.#since = this.#clock.now();
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
  return [...clocks].flatMap(([{ range: { first } }, { spentMs: ms }], i) => {
    const link = links?.devices[i] ?? null;
    if (ms === 0) return [];
    if (link === null) return [{ first, ms }];
    const { roundTripSeconds, bytesPerSecond } = link;
    return [{ first, ms, link: { roundTripSeconds, bytesPerSecond } }];
  });
}
