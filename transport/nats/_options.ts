/**
 * Options of both sides of a channel through a broker.
 *
 * @module
 */

import {
  count,
  DEFAULT_MAX_FRAME_BYTES,
  DEFAULT_QUEUE_BYTES,
  milliseconds,
  signsOfLife,
} from "../_options.ts";

/** What a broker wants to see. */
export interface NatsCredentials {
  /** A token. */
  readonly token?: string;
  /** Name of a user. */
  readonly user?: string;
  /** The user's password. */
  readonly password?: string;
  /** The text of a `.creds` file: a JWT and the seed of its key. */
  readonly creds?: string;
  /** The seed of an nkey, which begins with `SU`. */
  readonly nkey?: string;
}

/** Options of both sides of a channel through a broker. */
export interface NatsOptions {
  /** Where the broker is, and which run: `nats+ws://HOST:PORT/RUN`, or `nats+wss` with TLS. */
  readonly url: string | URL;
  /** What the broker wants to see; else what the address has (`USER:PASSWORD@` or `TOKEN@`). */
  readonly credentials?: NatsCredentials;
  /** With `nats+wss`: certificates to trust beside those that the system does, as PEM; in Deno, not in browsers. */
  readonly caCerts?: readonly string[];
  /** Largest frame in bytes, both ways; cut into as many messages as the broker's `max_payload` takes. @default {67108864} */
  readonly maxFrameBytes?: number;
  /** Bytes that the peer may have sent beyond what was taken by `receive`; one frame may exceed it. @default {4194304} */
  readonly queueBytes?: number;
  /** Bytes that may be under way without an acknowledgement. @default {4194304} */
  readonly unackedBytes?: number;
  /** Longest time in milliseconds that closing waits for the peer. @default {5000} */
  readonly closeTimeoutMs?: number;
  /** Time in milliseconds without anything sent after which this side sends a sign of life. @default {10000} */
  readonly pingIntervalMs?: number;
  /** Silence of the peer in milliseconds after which the device connects to the broker anew. @default {30000} */
  readonly idleTimeoutMs?: number;
  /** Further silence in milliseconds after which the channel ends. @default {10000} */
  readonly retryTimeoutMs?: number;
  /** Longest time in milliseconds that connecting takes. @default {10000} */
  readonly connectTimeoutMs?: number;
}

/** The options, read. */
export interface NatsLimits {
  readonly maxFrameBytes: number;
  readonly queueBytes: number;
  readonly unackedBytes: number;
  readonly closeTimeoutMs: number;
  readonly pingIntervalMs: number;
  readonly idleTimeoutMs: number;
  readonly retryTimeoutMs: number;
  readonly connectTimeoutMs: number;
}

/** Where a broker is, which run is meant, and what the broker wants to see. */
export interface NatsAddress {
  /** Address of the broker, without credentials: as it may be shown. */
  readonly broker: string;
  /** Which run; empty if the address has none. */
  readonly run: string;
  /** What the broker wants to see. */
  readonly credentials: NatsCredentials;
}

/**
 * Reads where a broker is.
 *
 * @example Usage
 * ```ts
 * import { natsAddress } from "@edgetuner/transport/nats";
 * import { assertEquals } from "@std/assert";
 *
 * const { broker, run } = natsAddress("nats+wss://broker.example:9222/living-room");
 * assertEquals([broker, run], ["wss://broker.example:9222", "living-room"]);
 * ```
 *
 * @param url `nats+ws://HOST:PORT/RUN` or `nats+wss://HOST:PORT/RUN`; the run may be left out.
 * @returns Its parts.
 * @throws {SyntaxError} If it is no such address, or the run has other characters than letters, digits, `-` and `_`.
 */
export function natsAddress(url: string | URL): NatsAddress {
  const text = `${url}`;
  const match = /^nats\+(wss?):\/\//i.exec(text);
  const shown = text.replace(/\/\/.*@/s, "//...@");
  let parsed: URL | undefined;
  try {
    if (match) parsed = new URL(`${match[1]}://${text.slice(match[0].length)}`);
  } catch {
    // Told below.
  }
  if (parsed === undefined) {
    throw new SyntaxError(
      `Cannot read the address of a broker as it must be nats+ws://HOST:PORT/RUN or nats+wss://HOST:PORT/RUN: current value is ${
        JSON.stringify(shown)
      }`,
    );
  }
  const run = parsed.pathname.slice(1);
  if (run !== "" && !/^[\w-]{1,64}$/.test(run)) {
    throw new SyntaxError(
      `Cannot read the address of a broker as the run in it must have 1 to 64 letters, digits, "-" and "_": current value is ${
        JSON.stringify(run)
      }`,
    );
  }
  const user = decodeURIComponent(parsed.username);
  const password = decodeURIComponent(parsed.password);
  return {
    broker: `${parsed.protocol}//${parsed.host}`,
    run,
    credentials: user === "" ? {} : password === "" ? { token: user } : { user, password },
  };
}

/** Reads the options. */
export function natsLimits(options: NatsOptions): NatsLimits {
  return {
    maxFrameBytes: count("maxFrameBytes", options.maxFrameBytes, DEFAULT_MAX_FRAME_BYTES),
    queueBytes: count("queueBytes", options.queueBytes, DEFAULT_QUEUE_BYTES),
    unackedBytes: count("unackedBytes", options.unackedBytes, 4 * 2 ** 20),
    closeTimeoutMs: milliseconds("closeTimeoutMs", options.closeTimeoutMs, 5000),
    retryTimeoutMs: milliseconds("retryTimeoutMs", options.retryTimeoutMs, 10_000),
    connectTimeoutMs: milliseconds("connectTimeoutMs", options.connectTimeoutMs, 10_000),
    ...signsOfLife(options),
  };
}
