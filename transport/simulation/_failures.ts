/**
 * The failures of a link's profile as one device sees them, at the times that the seed draws.
 *
 * @module
 */

import type { LinkProfile, ScheduledTime } from "./link_profile.ts";
import { makeRandom } from "./_random.ts";

/** A span of time in milliseconds of the clock. */
interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** What goes wrong for one device. */
export class Failures {
  readonly #slow: (Span & { readonly factor: number })[] = [];
  readonly #gone: Span[] = [];

  /**
   * Draws the times.
   *
   * @param profile The link's profile.
   * @param device Number of the device; `undefined` leaves out what concerns a certain one.
   * @param seed The same seed gives the same times.
   * @param startMs Time of the clock from which all times count.
   */
  constructor(profile: LinkProfile, device: number | undefined, seed: number, startMs: number) {
    const random = makeRandom(seed ^ 0x5eed);
    const draw = (time: ScheduledTime | undefined) => {
      if (time === undefined) return Infinity;
      const [from, to] = typeof time === "number" ? [time, time] : time;
      return startMs + from + (to - from) * random();
    };
    for (const failure of profile.failures ?? []) {
      if (failure.device !== undefined && failure.device !== device) continue;
      if (failure.slow !== undefined) {
        const { factor, fromMs, toMs } = failure.slow;
        this.#slow.push({ factor, fromMs: draw(fromMs), toMs: draw(toMs) });
      }
      if (failure.goneMs !== undefined) {
        const fromMs = draw(failure.goneMs);
        this.#gone.push({ fromMs, toMs: Math.max(fromMs, draw(failure.backMs)) });
      }
    }
  }

  /** How many times as long work takes that begins at a time. */
  slowness(atMs: number): number {
    return this.#slow.reduce((all, s) => s.fromMs <= atMs && atMs < s.toMs ? all * s.factor : all, 1);
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
