/**
 * What a link is like: numbers per direction, what goes wrong on it and when, and how long a frame
 * takes on average. The emulation in `@edgetuner/transport` and the forecast in `transport/simulation/plan.ts` share
 * these.
 *
 * The model of a direction: a frame of n bytes travels in ceil(n / mtu) parts. It occupies the link
 * for n / bandwidth, then is under way for latency + jitter. Every part is lost with probability
 * `loss`, on its own: the lost ones occupy the link once more and delay the frame, and all behind it,
 * by one resend timeout, as often as any of them is lost again. On a shared link a frame waits until
 * none of any other device or direction occupies it.
 *
 * @module
 */

/** One direction of a link. */
export interface LinkDirection {
  /** Bandwidth in Mbit/s. */
  readonly bandwidthMbit: number;
  /** Time in milliseconds that a byte is under way, on top of what the bandwidth costs. */
  readonly latencyMs: number;
  /** Largest extra time in milliseconds that a frame is under way, drawn evenly from zero up. @default {0} */
  readonly jitterMs?: number;
  /** Probability that a part of a frame is lost and has to be sent again, in [0, 1). @default {0} */
  readonly loss?: number;
}

/** A time in milliseconds since the start, or a range from which the seed draws one. */
export type ScheduledTime = number | readonly [from: number, to: number];

/** Something that goes wrong at a given time. */
export interface LinkFailure {
  /** Device that it concerns, counted from 0 in the order of joining; one of the run. @default {every device on such a link} */
  readonly device?: number;
  /** From when to when the device is slow. */
  readonly slow?: {
    /** How many times as long its work takes. */
    readonly factor: number;
    /** Start. */
    readonly fromMs: ScheduledTime;
    /** End, after the start whatever the seed draws. @default {never} */
    readonly toMs?: ScheduledTime;
  };
  /** From when to when the link is weak. */
  readonly weak?: {
    /** How many times as long a byte occupies the link, and is under way. */
    readonly factor: number;
    /** Start. */
    readonly fromMs: ScheduledTime;
    /** End, after the start whatever the seed draws. @default {never} */
    readonly toMs?: ScheduledTime;
  };
  /** When the link is cut. */
  readonly goneMs?: ScheduledTime;
  /** From when a new connection can be opened again, not before `goneMs` whatever the seed draws. @default {never} */
  readonly backMs?: ScheduledTime;
  /**
   * When the edge server is lost, and with it every link to it; not of a certain device. `simulate` starts it again at
   * `serverBackMs` from its newest state; to an emulated link alone it is a cut.
   */
  readonly serverGoneMs?: ScheduledTime;
  /** From when it is there again, not before `serverGoneMs` whatever the seed draws. @default {never} */
  readonly serverBackMs?: ScheduledTime;
}

/** A link between a device and the edge server. */
export interface LinkProfile {
  /** Name for reports. */
  readonly name: string;
  /** From the device to the edge server. */
  readonly up: LinkDirection;
  /** From the edge server to the device. */
  readonly down: LinkDirection;
  /**
   * True if all devices on such a link, and both directions, share its bandwidth, one frame after the other, as
   * on one radio channel.
   *
   * @default {false}
   */
  readonly shared?: boolean;
  /** Bytes of a part that is lost and sent again as one. @default {1460} */
  readonly mtuBytes?: number;
  /** Time in milliseconds after which a lost part is sent again. @default {the latencies of both directions + 20} */
  readonly resendMs?: number;
  /** What goes wrong. @default {[]} */
  readonly failures?: readonly LinkFailure[];
}

/**
 * Profiles by name. The numbers are our choice: typical values of what such a link gives an
 * application, below its nominal speed; no measurement of a particular network.
 *
 * - `lan-1g`: gigabit Ethernet through one switch, less the overhead of its headers.
 * - `wifi-5`: Wi-Fi 5 in a home, laptops or phones with two antennas a room or two away from the access
 *   point. Of 867 Mbit/s nominal about a third arrives, and everyone in the home shares it; waits for the
 *   air show as jitter, and nearly all losses are repaired below what is counted here.
 * - `lte`: a phone on a mobile network of medium load; the way up is narrow, the delay varies.
 * - `dsl`: a home line of 50 Mbit/s down and 10 up.
 *
 * @category Simulation
 */
export const LINK_PROFILES: Readonly<Record<"lan-1g" | "wifi-5" | "lte" | "dsl", LinkProfile>> = {
  "lan-1g": {
    name: "lan-1g",
    up: { bandwidthMbit: 940, latencyMs: 0.15, jitterMs: 0.05 },
    down: { bandwidthMbit: 940, latencyMs: 0.15, jitterMs: 0.05 },
  },
  "wifi-5": {
    name: "wifi-5",
    shared: true,
    up: { bandwidthMbit: 250, latencyMs: 1.5, jitterMs: 2, loss: 1e-5 },
    down: { bandwidthMbit: 300, latencyMs: 1.5, jitterMs: 2, loss: 1e-5 },
  },
  "lte": {
    name: "lte",
    up: { bandwidthMbit: 12, latencyMs: 25, jitterMs: 10, loss: 1e-4 },
    down: { bandwidthMbit: 40, latencyMs: 20, jitterMs: 10, loss: 1e-4 },
  },
  "dsl": {
    name: "dsl",
    up: { bandwidthMbit: 10, latencyMs: 9, jitterMs: 2, loss: 1e-5 },
    down: { bandwidthMbit: 50, latencyMs: 9, jitterMs: 2, loss: 1e-5 },
  },
};

/** Bytes of a part unless a profile says otherwise: what fits an Ethernet frame beside its headers. */
export const DEFAULT_MTU_BYTES = 1460;

/** Time after which a lost part of a profile's link is sent again, in milliseconds. */
export function resendMs(profile: LinkProfile): number {
  return profile.resendMs ?? profile.up.latencyMs + profile.down.latencyMs + 20;
}

/** Milliseconds that `bytes` bytes occupy a direction. */
export function occupiedMs(direction: LinkDirection, bytes: number): number {
  return bytes * 8 / (direction.bandwidthMbit * 1000);
}

/**
 * Expected number of resend timeouts until the last of `parts` parts has arrived: the mean of the
 * largest of as many geometric numbers.
 */
export function expectedResends(parts: number, loss: number): number {
  let sum = 0;
  // P(more than j rounds) = 1 - (1 - p^(j+1))^parts, written for tiny p^(j+1).
  for (let power = loss; power > 1e-12; power *= loss) sum += -Math.expm1(parts * Math.log1p(-power));
  return sum;
}

/**
 * Reads a profile: a name of `LINK_PROFILES`, or the parsed JSON of a profile of your own.
 *
 * @throws {TypeError} If it is neither, or a field is missing, unknown or of the wrong type.
 * @throws {RangeError} If a number is out of range.
 * @example Usage
 * ```ts
 * import { readLinkProfile } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const home = { name: "home", up: { bandwidthMbit: 40, latencyMs: 8 }, down: { bandwidthMbit: 250, latencyMs: 8 } };
 * assertEquals(readLinkProfile(home).up.bandwidthMbit, 40);
 * assertEquals(readLinkProfile("wifi-5").name, "wifi-5");
 * ```
 */
export function readLinkProfile(json: unknown): LinkProfile {
  if (typeof json === "string") {
    if (Object.hasOwn(LINK_PROFILES, json)) return LINK_PROFILES[json as keyof typeof LINK_PROFILES];
    throw new TypeError(
      `Cannot use the link profile as its name must be one of ${
        Object.keys(LINK_PROFILES).join(", ")
      }: current value is "${json}"`,
    );
  }
  const profile = fieldsOf("it", json, ["name", "up", "down", "shared", "mtuBytes", "resendMs", "failures"]);
  if (typeof profile.name !== "string" || profile.name === "") wrong("name", "a text", profile.name);
  for (const way of ["up", "down"]) {
    const direction = fieldsOf(way, profile[way], ["bandwidthMbit", "latencyMs", "jitterMs", "loss"]);
    inRange(`${way}.bandwidthMbit`, direction.bandwidthMbit, 1e-3, 1e6);
    inRange(`${way}.latencyMs`, direction.latencyMs, 0, 1e5);
    inRange(`${way}.jitterMs`, direction.jitterMs ?? 0, 0, 1e5);
    inRange(`${way}.loss`, direction.loss ?? 0, 0, 0.9);
  }
  if (typeof (profile.shared ?? false) !== "boolean") wrong("shared", "true or false", profile.shared);
  inRange("mtuBytes", profile.mtuBytes ?? DEFAULT_MTU_BYTES, 1, 2 ** 30);
  inRange("resendMs", profile.resendMs ?? 0, 0, 1e6);
  const failures = profile.failures ?? [];
  if (!Array.isArray(failures)) wrong("failures", "a list", failures);
  (failures as unknown[]).forEach((entry, i) => checkFailure(`failures[${i}]`, entry));
  return json as LinkProfile;
}

function checkFailure(name: string, entry: unknown): void {
  const failure = fieldsOf(name, entry, [
    ...["device", "slow", "weak", "goneMs", "backMs", "serverGoneMs", "serverBackMs"],
  ]);
  if (failure.device !== undefined && !Number.isInteger(failure.device)) {
    wrong(`${name}.device`, "an integer", failure.device);
  }
  if (failure.device !== undefined) inRange(`${name}.device`, failure.device, 0, 1e6);
  const time = (field: string, value: unknown) => {
    const [from, to = from] = Array.isArray(value) && value.length === 2 ? value : [value];
    inRange(`${name}.${field}`, from, 0, 1e12);
    inRange(`${name}.${field}`, to, from as number, 1e12);
  };
  for (const kind of ["slow", "weak"] as const) {
    if (failure[kind] === undefined) continue;
    const span = fieldsOf(`${name}.${kind}`, failure[kind], ["factor", "fromMs", "toMs"]);
    inRange(`${name}.${kind}.factor`, span.factor, 1, 1e6);
    time(`${kind}.fromMs`, span.fromMs);
    if (span.toMs === undefined) continue;
    time(`${kind}.toMs`, span.toMs);
    if (bounds(span.toMs)[0] <= bounds(span.fromMs)[1]) {
      wrong(`${name}.${kind}.toMs`, "after fromMs", span.toMs);
    }
  }
  for (const [gone, back] of [["goneMs", "backMs"], ["serverGoneMs", "serverBackMs"]] as const) {
    if (failure[gone] !== undefined) time(gone, failure[gone]);
    if (failure[back] === undefined) continue;
    if (failure[gone] === undefined) wrong(`${name}.${back}`, `together with ${gone}`, failure[back]);
    time(back, failure[back]);
    if (bounds(failure[back])[0] < bounds(failure[gone])[1]) {
      wrong(`${name}.${back}`, `not before ${gone}`, failure[back]);
    }
  }
  if (failure.serverGoneMs !== undefined && failure.device !== undefined) {
    wrong(`${name}.serverGoneMs`, "of no certain device", failure.device);
  }
  if (["slow", "weak", "goneMs", "serverGoneMs"].every((kind) => failure[kind] === undefined)) {
    wrong(name, "a failure with slow, weak, goneMs or serverGoneMs", entry);
  }
}

/** Earliest and latest of a scheduled time. */
function bounds(time: unknown): [number, number] {
  return (Array.isArray(time) ? time : [time, time]) as [number, number];
}

function fieldsOf(name: string, value: unknown, known: readonly string[]): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) wrong(name, "an object", value);
  const stranger = Object.keys(value as object).find((key) => !known.includes(key));
  if (stranger !== undefined) wrong(name, `made of ${known.join(", ")}`, stranger);
  return value as Record<string, unknown>;
}

function inRange(name: string, value: unknown, min: number, max: number): void {
  if (typeof value !== "number" || Number.isNaN(value)) wrong(name, "a number", value);
  if ((value as number) < min || (value as number) > max) {
    throw new RangeError(
      `Cannot use the link profile as ${name} must be from ${min} to ${max}: current value is ${value}`,
    );
  }
}

function wrong(name: string, rule: string, value: unknown): never {
  throw new TypeError(
    `Cannot use the link profile as ${name} must be ${rule}: current value is ${JSON.stringify(value)}`,
  );
}
