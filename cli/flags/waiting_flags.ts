/**
 * Flags that limit waiting, in seconds, for all programs that take part in a run.
 *
 * @module
 */

import { LOSS_POLICIES, type LossPolicy, OUTLIER_FACTOR } from "@edgetuner/core";
import { type FlagValues, number, text, UsageError } from "./flags.ts";

/** Longest limit in seconds: timers honour no more, about 24 days. */
const MAX_SECONDS = Math.floor((2 ** 31 - 1) / 1000);

function seconds(initial: number, help: string) {
  return number("SECONDS", initial, `seconds: ${help}`, { min: 0.05, max: MAX_SECONDS });
}

/** Limits of every party of a run. */
export const RUN_WAITS = {
  "step-timeout": seconds(120, "longest wait for the other side during the run"),
  "join-timeout": seconds(600, "longest wait for all devices to join"),
  "ping-interval": seconds(10, "how often a quiet connection gives a sign of life"),
  "idle-timeout": seconds(30, "silence of a connection after which it counts as cut"),
  "retry-timeout": number(
    "SECONDS",
    0,
    "seconds: how long a connection that was cut may be made anew, and a request over HTTP repeated; 0 = 10, or as the limits above allow",
    { min: 0, max: MAX_SECONDS },
  ),
};

/** How long a connection that was cut may be made anew unless told otherwise, in seconds. */
const RETRY_SECONDS = 10;

/** Limits of those who let devices join. */
export const PAUSE_WAIT = {
  "pause-timeout": number(
    "SECONDS",
    86_400,
    "seconds: longest pause over REST; the run then ends and can be resumed; 0 = no limit",
    { min: 0, max: MAX_SECONDS },
  ),
};

/** What an edge server does about devices that are lost. */
export const LOSS_FLAGS = {
  "on-loss": text(
    "POLICY",
    "prune",
    "a device is lost: go on without its heads while others have some, wait for it first, or stop",
    LOSS_POLICIES,
  ),
  "loss-wait": seconds(60, "how long to wait for a lost device that the run cannot do without"),
  outlier: number(
    "X",
    OUTLIER_FACTOR,
    "a device whose answer is X times as large as usual for what it was asked counts as lost, and is named; 0 = no limit",
    { min: 0 },
  ),
  adopt: text(
    "after=N",
    "",
    "who joins late takes over heads whose device left, or has been away for N steps; they begin anew",
  ),
  "step-deadline": number(
    "SECONDS",
    0,
    "seconds: a device that keeps the others waiting longer in a step counts as lost; 0 = --step-timeout alone",
    { min: 0, max: MAX_SECONDS },
  ),
};

/** What `EdgeServer` does about devices that are lost. */
export function lossOptions(flags: FlagValues<typeof LOSS_FLAGS>): {
  readonly onLoss: LossPolicy;
  readonly lossWaitMs: number;
  readonly outlierFactor: number;
  readonly adoptAfter?: number;
  readonly stepDeadlineMs?: number;
} {
  const { "step-deadline": deadline, adopt, outlier } = flags;
  const after = /^after=(\d{1,9})$/.exec(adopt)?.[1];
  if (adopt !== "" && after === undefined) {
    throw new UsageError(
      `Cannot use --adopt as it must be after=N, such as after=10: current value is "${adopt}"`,
    );
  }
  if (outlier > 0 && outlier <= 1) {
    throw new UsageError(`Cannot use --outlier as it must be above 1, or 0: current value is ${outlier}`);
  }
  return {
    onLoss: flags["on-loss"] as LossPolicy,
    outlierFactor: outlier || Infinity,
    lossWaitMs: ms(flags["loss-wait"]),
    ...(after !== undefined && { adoptAfter: Number(after) }),
    ...(deadline > 0 && { stepDeadlineMs: ms(deadline) }),
  };
}

/** Limits of those who connect. */
export const CONNECT_WAITS = {
  "connect-timeout": seconds(60, "how long to try to reach the edge server, with growing pauses"),
};

/** Limits of devices that come back. */
export const RETURN_WAITS = {
  "server-lost": number(
    "SECONDS",
    900,
    "seconds: how long to try to come back when the connection is lost in the run; 0 = it ends",
    { min: 0, max: MAX_SECONDS },
  ),
};

/** Limits of those who answer requests for texts. */
export const REQUEST_WAITS = {
  "request-timeout": seconds(600, "longest time from a request to the end of its answer"),
};

/** Longest time for one attempt to connect, in milliseconds. */
const ATTEMPT_MS = 10_000;

/** Longest time in milliseconds that closing waits for a peer: a farewell that comes takes one round trip. */
const CLOSE_MS = 800;

type Waits =
  & FlagValues<typeof RUN_WAITS>
  & Partial<FlagValues<typeof CONNECT_WAITS> & FlagValues<typeof PAUSE_WAIT>>;

/** Pairs of limits: the first must be at most so many times the second. */
const RULES: readonly (readonly [keyof Waits, number, keyof Waits, string])[] = [
  ["ping-interval", 0.5, "idle-timeout", "a side that lives must be heard at least twice"],
  ["idle-timeout", 1, "join-timeout", "a device that is gone must be found while the others are waited for"],
  ["idle-timeout", 1, "pause-timeout", "a device that is gone must be found while the run is paused"],
  ["retry-timeout", 1, "idle-timeout", "the other side gives a silent connection up after that"],
  ["retry-timeout", 1, "step-timeout", "a request that is repeated must not end the step"],
];

/**
 * Checks the limits against each other.
 *
 * @throws {UsageError} If one makes another one useless.
 */
export function requireWaits(program: string, flags: Waits): void {
  for (const [short, share, long, why] of RULES) {
    const [a, b] = [flags[short], flags[long]];
    if (a === undefined || b === undefined || a <= share * b) continue;
    if (long === "pause-timeout" && b === 0) continue; // no limit
    throw new UsageError(
      `Cannot run ${program} as --${short} must be at most ${
        share === 0.5 ? "half of " : ""
      }--${long} (${why}): ` +
        `current values are ${a} and ${b} seconds`,
    );
  }
}

const ms = (value: number): number => Math.ceil(value * 1000);

/** Limits for `EdgeServer` and `runUserDevice`. */
export function runWaits(flags: Waits): {
  readonly timeoutMs: number;
  readonly joinTimeoutMs: number;
  readonly pauseTimeoutMs?: number;
} {
  const pause = flags["pause-timeout"];
  return {
    timeoutMs: ms(flags["step-timeout"]),
    joinTimeoutMs: ms(flags["join-timeout"]),
    ...(pause !== undefined && { pauseTimeoutMs: ms(pause) }),
  };
}

/** How long a connection that was cut may be made anew. */
function retryMs(flags: Waits): number {
  const { "retry-timeout": told, "idle-timeout": idle, "step-timeout": step } = flags;
  return ms(told > 0 ? told : Math.min(RETRY_SECONDS, idle, step));
}

/** Options of either side of a WebSocket. */
export function socketWaits(flags: Waits) {
  return {
    retryTimeoutMs: retryMs(flags),
    pingIntervalMs: ms(flags["ping-interval"]),
    idleTimeoutMs: ms(flags["idle-timeout"]),
    closeTimeoutMs: CLOSE_MS,
  };
}

/** Options of the accepting side of HTTP. */
export function pollWaits(flags: Waits) {
  return {
    pollTimeoutMs: ms(flags["ping-interval"]),
    // A device that finds its connection dead has time to make another one.
    idleTimeoutMs: ms(flags["idle-timeout"]) + retryMs(flags),
    closeTimeoutMs: CLOSE_MS,
  };
}

/** Options of the connecting side, over WebSocket and over HTTP. */
export function connectWaits(flags: Waits & FlagValues<typeof CONNECT_WAITS>) {
  return {
    ...socketWaits(flags),
    connectTimeoutMs: Math.min(ATTEMPT_MS, ms(flags["connect-timeout"])),
    requestTimeoutMs: ms(flags["idle-timeout"]),
  };
}
