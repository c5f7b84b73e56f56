/**
 * How long a device had a question before its answer left, as frames carry it.
 *
 * @module
 */

import { type RunClock, WALL_CLOCK } from "../contracts/clock.ts";
import type { Frame } from "./frame.ts";
import type { AnswerMeta } from "./metas.ts";

/** The longest time that can be told, in microseconds. */
const MOST = 0xffff_ffff;

/** When frames were there to be taken up: milliseconds of `performance.now()`. */
const arrivals = new WeakMap<Frame, number>();

/** A frame is there to be taken up. */
export function markArrival(frame: Frame): void {
  arrivals.set(frame, performance.now());
}

/** A time as eight hexadecimal digits of microseconds: frames of a kind are as long in every run. */
export function writeTook(ms: number): string {
  return Math.min(MOST, Math.max(0, Math.round(1000 * ms))).toString(16).padStart(8, "0");
}

/** The time in milliseconds; `null` if a device tells none that can be read. */
export function readTook(text: string | undefined): number | null {
  const us = parseInt(text ?? "", 16);
  return us >= 0 ? us / 1000 : null;
}

/** Measures how long a device has the questions that it answers one after the other. */
export class AnswerWatch {
  readonly #tells: boolean;
  #arrived = 0;
  #answered = 0;

  /** In virtual time there is nothing to tell: what takes time takes it elsewhere. */
  constructor(clock: RunClock = WALL_CLOCK) {
    this.#tells = clock === WALL_CLOCK;
  }

  /** A question is taken up. */
  begin(frame: Frame): void {
    this.#arrived = arrivals.get(frame) ?? performance.now();
  }

  /**
   * Its answer leaves.
   *
   * @returns The time since it came, or since the answer before it where it came earlier: times of several questions
   * at once add up to that in which the device had one.
   */
  end(): AnswerMeta {
    const now = performance.now();
    const since = now - Math.max(this.#arrived, this.#answered);
    this.#answered = now;
    return this.#tells ? { took: writeTook(since) } : {};
  }
}
