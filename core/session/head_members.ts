/**
 * The devices with heads, as the edge server sees them: who is there, and who is away.
 *
 * @module
 */

import {
  ChannelClosedError,
  DeadlineError,
  HandshakeError,
  ProtocolError,
  TrainingError,
} from "../contracts/errors.ts";
import type { HeadRange } from "../lora/allocation.ts";
import type { Peer } from "../protocol/peer.ts";

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
  #open = 0;
  #since = 0;
  #spentMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * A clock for one device and step.
   *
   * @param limitMs Longest time in milliseconds; `Infinity` for none.
   * @param late Called once if it takes longer.
   */
  constructor(limitMs: number, late: () => void) {
    this.#limitMs = limitMs;
    this.#late = late;
  }

  /** A question leaves. */
  ask(): void {
    if (this.#open++ > 0 || this.#limitMs === Infinity) return;
    this.#since = performance.now();
    this.#timer = setTimeout(this.#late, Math.max(0, this.#limitMs - this.#spentMs));
  }

  /** It is answered, or nobody waits any more. */
  answered(): void {
    if (--this.#open > 0 || this.#limitMs === Infinity) return;
    clearTimeout(this.#timer);
    this.#spentMs += performance.now() - this.#since;
  }
}
