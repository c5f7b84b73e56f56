/**
 * Devices that come and go at random: failures for the profiles of their links.
 *
 * @module
 */

import { makeRandom } from "./_random.ts";
import type { LinkFailure } from "./link_profile.ts";

/** Options of {@linkcode comingAndGoing}. */
export interface ComingAndGoingOptions {
  /** The devices that come and go, by number. */
  readonly devices: readonly number[];
  /** Share of the time that each of them is there, above 0 and at most 1. */
  readonly availability: number;
  /** Mean length of an absence in milliseconds. @default {5000} */
  readonly awayMs?: number;
  /** When the first may go, so that all can join, in milliseconds from the start. @default {1000} */
  readonly fromMs?: number;
  /** From when on nobody goes any more, in milliseconds from the start. */
  readonly untilMs: number;
  /** The same seed gives the same times. @default {1} */
  readonly seed?: number;
}

/**
 * Failures in which devices come and go, each by itself: how long a device is there, and how long it is away, are drawn
 * from exponential distributions whose means give the availability. What a device takes to notice that its link is back
 * comes on top.
 *
 * @throws {RangeError} If a number is out of range.
 * @category Simulation
 *
 * @example Usage
 * ```ts
 * import { comingAndGoing, LINK_PROFILES } from "@edgetuner/transport";
 * import { assert } from "@std/assert";
 *
 * const failures = comingAndGoing({ devices: [0, 1, 2], availability: 0.7, untilMs: 60_000 });
 * const link = { ...LINK_PROFILES["wifi-5"], failures };
 * assert(link.failures.every(({ goneMs, backMs }) => goneMs! < backMs!));
 * ```
 */
export function comingAndGoing(
  options: ComingAndGoingOptions,
): (LinkFailure & { goneMs: number; backMs: number })[] {
  const { devices, availability, awayMs = 5000, fromMs = 1000, untilMs, seed = 1 } = options;
  if (!(availability > 0 && availability <= 1)) {
    throw new RangeError(
      `Cannot draw failures as availability must be above 0 and at most 1: current value is ${availability}`,
    );
  }
  for (const [name, value] of Object.entries({ awayMs, fromMs, untilMs })) {
    if (value >= 0 && value < Infinity) continue;
    throw new RangeError(
      `Cannot draw failures as ${name} must be at least 0 and finite: current value is ${value}`,
    );
  }
  if (availability === 1 || awayMs === 0) return [];
  const thereMs = awayMs * availability / (1 - availability);
  return devices.flatMap((device) => {
    const random = makeRandom(Math.imul(seed, 0x9e3779b1) ^ Math.imul(device + 1, 0x85ebca6b));
    const draw = (mean: number) => -mean * Math.log1p(-random());
    const failures = [];
    for (let at = fromMs + draw(thereMs); at < untilMs;) {
      const backMs = at + draw(awayMs);
      failures.push({ device, goneMs: at, backMs });
      at = backMs + draw(thereMs);
    }
    return failures;
  });
}
