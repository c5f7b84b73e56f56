/**
 * Flags of edge servers that announce themselves, and of those who look for them.
 *
 * @module
 */

import { isIP } from "node:net";
import { type FlagValues, number, text, textOrAlone, UsageError } from "./flags.ts";

/** What `--announce` alone means. */
const ANYWHERE = "anywhere";

/** Flags of those who announce. */
export const ANNOUNCE_FLAGS = {
  announce: textOrAlone(
    "ADDRESS",
    "",
    ANYWHERE,
    "devices of this network find the run: join without --server, or edgetuner discover; on the interface with this IPv4 address, or alone on all",
  ),
};

/** Flags of those who look. */
export const DISCOVER_FLAGS = {
  wait: number("SECONDS", 3, "how long to look for edge servers", { min: 0.1, max: 60 }),
  interface: text("ADDRESS", "", "look on the interface with this IPv4 address; else on all"),
};

/** True for an address of this machine alone. */
export function isLoopback(host: string): boolean {
  return /^127\./.test(host) || /^\[?::1\]?$/.test(host) || host === "localhost";
}

/**
 * The interface to announce on, empty for all; `null` without `--announce`.
 *
 * @throws {UsageError} If it is no address, or nobody else could reach what is announced.
 */
export function interfaceToAnnounceOn(
  { announce, host }: FlagValues<typeof ANNOUNCE_FLAGS> & { readonly host: string },
): string | null {
  if (announce === "") return null;
  const address = announce === ANYWHERE ? "" : interfaceAddress("--announce", announce);
  if (isLoopback(host) && !isLoopback(address)) {
    throw new UsageError(
      `Cannot use --announce as others must reach --host: current value is ${host}; try --host 0.0.0.0`,
    );
  }
  return address;
}

/**
 * Checks the address of an interface.
 *
 * @throws {UsageError} If it is no IPv4 address.
 */
export function interfaceAddress(flag: string, value: string): string {
  if (value !== "" && isIP(value) !== 4) {
    throw new UsageError(`${flag} must be an IPv4 address of this machine: current value is "${value}"`);
  }
  return value;
}
