/**
 * Flags and variables of the way through a broker.
 *
 * @module
 */

import { environmentVariable } from "@edgetuner/core";
import type { NatsCredentials } from "@edgetuner/transport/nats";
import { type FlagValues, text, UsageError } from "./flags.ts";

/** Flags of every program that may go through a broker. */
export const NATS_FLAGS = {
  "nats-creds": text(
    "FILE",
    "",
    "NATS: file with the credentials for the broker; or EDGETUNER_NATS_TOKEN, or EDGETUNER_NATS_USER and EDGETUNER_NATS_PASSWORD",
  ),
  "nats-nkey": text("FILE", "", "NATS: file with the seed of an nkey, in place of other credentials"),
  "nats-ca": text(
    "FILE",
    "",
    "nats+wss: certificates, PEM, to trust beside those of the system, such as the broker's own",
  ),
};

type NatsFlags = FlagValues<typeof NATS_FLAGS>;

async function read(flag: string, path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw new UsageError(`Cannot read ${flag} ${path}: ${(error as Error).message}`);
  }
}

/**
 * Certificates of a broker to trust beside those of the system; nothing without `--nats-ca`.
 *
 * @throws {UsageError} If the file cannot be read, or has none.
 */
export async function natsTrust(flags: NatsFlags): Promise<{ readonly caCerts?: readonly string[] }> {
  const path = flags["nats-ca"];
  if (path === "") return {};
  const pem = await read("--nats-ca", path);
  if (!pem.includes("-----BEGIN CERTIFICATE-----")) {
    throw new UsageError(`Cannot use --nats-ca as it must have certificates as PEM: ${path} has none`);
  }
  return { caCerts: [pem] };
}

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
  flags: NatsFlags,
): Promise<NatsCredentials | undefined> {
  const { "nats-creds": creds, "nats-nkey": nkey } = flags;
  if (creds !== "" && nkey !== "") {
    throw new UsageError("Cannot use --nats-creds and --nats-nkey together: each is all that a broker wants");
  }
  if (creds !== "") return { creds: await read("--nats-creds", creds) };
  if (nkey !== "") return { nkey: await read("--nats-nkey", nkey) };
  const of = (name: string) => environmentVariable(`EDGETUNER_NATS_${name}`) || undefined;
  const [token, user, password] = [of("TOKEN"), of("USER"), of("PASSWORD")];
  if (token === undefined && user === undefined) return undefined;
  return {
    ...(token === undefined ? {} : { token }),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
  };
}
