/**
 * Flags and variables of the way through a broker.
 *
 * @module
 */

import { environmentVariable } from "@edgetuner/core";
import type { NatsCredentials } from "@edgetuner/transport/nats";
import { text, UsageError } from "./flags.ts";

/** Flags of every program that may go through a broker. */
export const NATS_FLAGS = {
  "nats-creds": text(
    "FILE",
    "",
    "NATS: file with the credentials for the broker; or EDGETUNER_NATS_TOKEN, or EDGETUNER_NATS_USER and EDGETUNER_NATS_PASSWORD",
  ),
};

/** True if an address is one of a broker. */
export function isNats(url: string): boolean {
  return /^nats\+wss?:/i.test(url);
}

/** An address as it may be shown. */
export function withoutCredentials(url: string): string {
  return url.replace(/\/\/[^/]*@/s, "//");
}

/**
 * What the broker wants to see: of a file, else of the variables; `undefined` leaves it to the address.
 *
 * @throws {UsageError} If the file cannot be read.
 */
export async function natsCredentials(
  flags: { readonly "nats-creds": string },
): Promise<NatsCredentials | undefined> {
  const path = flags["nats-creds"];
  if (path !== "") {
    try {
      return { creds: await Deno.readTextFile(path) };
    } catch (error) {
      throw new UsageError(`Cannot read --nats-creds ${path}: ${(error as Error).message}`);
    }
  }
  const of = (name: string) => environmentVariable(`EDGETUNER_NATS_${name}`) || undefined;
  const [token, user, password] = [of("TOKEN"), of("USER"), of("PASSWORD")];
  if (token === undefined && user === undefined) return undefined;
  return {
    ...(token === undefined ? {} : { token }),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
  };
}
