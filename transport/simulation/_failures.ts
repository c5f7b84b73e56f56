/**
 * The failures of a link's profile as one device sees them, at the times that the seed draws.
 *
 * @module
 */

import type { LinkProfile, ScheduledTime } from "./link_profile.ts";
import { makeRandom } from "./_random.ts";

/** A span of time in milliseconds of the clock. */
export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** A time in which something takes so many times as long. */
interface Slowing extends Span {
  readonly factor: number;
}

/** When failures are. */
export interface FailureTimes {
  /** The same seed gives the same times. */
  readonly seed: number;
  /** Time of the clock from which all times count. */
  readonly startMs: number;
  /** When the edge server is gone, where others know it too. @default {what the profile says} */
  readonly server?: readonly Span[] | undefined;
}

/** What goes wrong for one device. */
export class Failures {
  readonly #slow: Slowing[] = [];
  readonly #weak: Slowing[] = [];
  readonly #gone: Span[] = [];

  /**
   * Draws the times.
   *
   * @param profile The link's profile.
   * @param device Number of the device; `undefined` leaves out what concerns a certain one.
   * @param times When they are.
   */
  constructor(profile: LinkProfile, device: number | undefined, { seed, startMs, server }: FailureTimes) {
    const draw = drawTimes(seed, startMs);
    for (const failure of profile.failures ?? []) {
      if (failure.device !== undefined && failure.device !== device) continue;
      for (const [spans, span] of [[this.#slow, failure.slow], [this.#weak, failure.weak]] as const) {
        if (span === undefined) continue;
        const { factor, fromMs, toMs } = span;
        spans.push({ factor, fromMs: draw(fromMs), toMs: draw(toMs) });
      }
      if (failure.goneMs !== undefined) this.#gone.push(spanOf(draw, failure.goneMs, failure.backMs));
    }
    this.#gone.push(...server ?? serverFailures([profile], seed, startMs));
  }

  /** How many times as long work takes that begins at a time. */
  slowness(atMs: number): number {
    return factorAt(this.#slow, atMs);
  }

  /** How many times as long a byte occupies the link, and is under way, that enters it at a time. */
  weakness(atMs: number): number {
    return factorAt(this.#weak, atMs);
  }

  /** True if the link is cut at a time. */
  isGone(atMs: number): boolean {
    return this.#gone.some((s) => s.fromMs <= atMs && atMs < s.toMs);
  }

  /** When the link is next cut; `Infinity` if never. */
  nextCut(afterMs: number): number {
    return Math.min(Infinity, ...this.#gone.filter((s) => s.toMs > afterMs).map((s) => s.fromMs));
  }
}

/** When the edge server is gone, by the profiles of all links; ascending, each loss once. */
export function serverFailures(profiles: readonly LinkProfile[], seed: number, startMs: number): Span[] {
  const draw = drawTimes(seed ^ 0x5e4e4, startMs);
  return profiles.flatMap(({ failures = [] }) =>
    failures.flatMap(({ serverGoneMs: gone, serverBackMs: back }) =>
      gone === undefined ? [] : [spanOf(draw, gone, back)]
    )
  ).sort((a, b) => a.fromMs - b.fromMs);
}

function factorAt(spans: readonly Slowing[], atMs: number): number {
  return spans.reduce((all, s) => s.fromMs <= atMs && atMs < s.toMs ? all * s.factor : all, 1);
}

type Draw = (time: ScheduledTime | undefined) => number;

function drawTimes(seed: number, startMs: number): Draw {
  const random = makeRandom(seed ^ 0x5eed);
  return (time) => {
    if (time === undefined) return Infinity;
    const [from, to] = typeof time === "number" ? [time, time] : time;
    return startMs + from + (to - from) * random();
  };
}

function spanOf(draw: Draw, gone: ScheduledTime, back: ScheduledTime | undefined): Span {
  const fromMs = draw(gone);
  return { fromMs, toMs: Math.max(fromMs, draw(back)) };
}
