/**
 * The way to an edge server.
 *
 * @module
 */

import { type Channel, environmentVariable, type Transport } from "@edgetuner/core";
import {
  connectWithin,
  emulateLink,
  httpTransport,
  LINK_PROFILES,
  type LinkProfile,
  webSocketTransport,
} from "@edgetuner/transport";
import { natsAddress, natsTransport } from "@edgetuner/transport/nats";

import { COMMON_FLAGS } from "./common_flags.ts";
import { type FlagValues, integer, number, text, UsageError } from "./flags.ts";
import { isNats, NATS_FLAGS, natsCredentials, natsTrust, withoutCredentials } from "./nats_flags.ts";
import { named, pinned } from "./pinned.ts";
import { LINK_FLAG, linkOf } from "./simulation_flags.ts";
import { CONNECT_WAITS, connectWaits, requireWaits, RUN_WAITS } from "./waiting_flags.ts";

/** Flags of every program that joins an edge server, beside where that is. */
export const CONNECTION_FLAGS = {
  token: COMMON_FLAGS.token,
  bandwidth: number("MBIT", 0, "slow the link down to this many Mbit/s each way; 0 = as it is", { min: 0 }),
  latency: number("MS", 0, "slow the link down by this many milliseconds each way", { min: 0 }),
  link: {
    ...LINK_FLAG,
    default: "",
    help: `in place of both: emulate ${
      Object.keys(LINK_PROFILES).join(", ")
    }, or a JSON file with jitter, losses, failures`,
  },
  "link-seed": integer("N", 1, "--link: seed of jitter, losses and failures", { min: 0 }),
  "link-device": integer("N", 0, "--link: number of this device, from 0, in the file's failures", { min: 0 }),
  fingerprint: text(
    "SHA256",
    "",
    "wss, https: trust the certificate with this fingerprint alone, as the edge server prints it",
  ),
  ...NATS_FLAGS,
  ...CONNECT_WAITS,
  ...RUN_WAITS,
};

/** Bytes that may wait to be taken: a few frames of a large model. */
const QUEUE_BYTES = 2 ** 28;

/** The way to an edge server. */
export interface ServerLink {
  /**
   * Connects; while the edge server cannot be reached, says so and tries again, up to `--connect-timeout`.
   *
   * @param say Called with a line for people when an attempt failed.
   * @throws {ChannelClosedError} If it cannot be reached in time.
   * @throws {HandshakeError} If it refuses, such as a token.
   */
  connect(say: (line: string) => void, signal?: AbortSignal): Promise<Channel>;
}

/**
 * Prepares the way to an edge server; `flag` is what its address is called.
 *
 * @throws {UsageError} If address, token, link or limits are not valid.
 */
export async function openLink(
  program: string,
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  server: string,
  flag: string,
): Promise<ServerLink> {
  requireWaits(program, flags);
  const transport = await openTransport(flags, server, flag);
  return linkOver(flags, withoutCredentials(server), () => transport);
}

/**
 * The way to an edge server over a transport.
 *
 * @param name What the other side is called where it never answered.
 * @param transportFor Gives the transport, which may say lines for people.
 */
export function linkOver(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  name: string,
  transportFor: (say: (line: string) => void) => Transport,
): ServerLink {
  return {
    connect: (say, signal) =>
      connectWithin(transportFor(say), {
        name,
        timeoutMs: Math.ceil(flags["connect-timeout"] * 1000),
        ...(signal && { signal }),
        onRetry: ({ attempts, error, leftMs }) => {
          // Not at every attempt: they become rare, but a minute of them is a screenful.
          if (attempts > 1 && attempts % 5 !== 0) return;
          say(`${error.message}; trying again for ${Math.ceil(leftMs / 1000)} s`);
        },
      }),
  };
}

/** The token of devices: of the flag, else of the variable. */
export function joinToken(flags: { readonly token: string }): string {
  return flags.token || environmentVariable("EDGETUNER_JOIN_TOKEN") || "";
}

/**
 * Opens the transport to an address.
 *
 * @throws {UsageError} If address, token or link are not valid.
 */
export async function openTransport(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  server: string,
  flag: string,
): Promise<Transport> {
  const token = joinToken(flags);
  if (token === "") {
    throw new UsageError(
      "Cannot join as a token must be given: use --token or EDGETUNER_JOIN_TOKEN; the edge server prints it",
    );
  }
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new UsageError(
      `Cannot join as ${
        flags.token === "" ? "EDGETUNER_JOIN_TOKEN" : "--token"
      } must have visible ASCII characters and no spaces: current length is ${token.length}`,
    );
  }
  const transport = isNats(server)
    ? await throughBroker(flags, { server, flag, token })
    : direct(flags, { server, flag, token });
  const link = await emulatedLink(flags);
  if (link !== null) {
    return emulateLink(transport, link, { seed: flags["link-seed"], device: flags["link-device"] });
  }
  if (flags.bandwidth === 0 && flags.latency === 0) return transport;
  return emulateLink(transport, {
    bandwidthBytesPerSecond: flags.bandwidth === 0 ? Number.MAX_SAFE_INTEGER : flags.bandwidth * 1e6 / 8,
    latencyMs: flags.latency,
  });
}

/** Where to go, and the token that is shown there. */
interface Way {
  readonly server: string;
  readonly flag: string;
  readonly token: string;
}

/** Through a broker. */
async function throughBroker(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  { server, flag, token }: Way,
): Promise<Transport> {
  try {
    if (natsAddress(server).run === "") {
      throw new SyntaxError(
        `Cannot join as the address must name the run as the edge server prints it: ${
          withoutCredentials(server).replace(/\/$/, "")
        }/RUN`,
      );
    }
  } catch (error) {
    throw new UsageError(`${flag}: ${(error as Error).message}`);
  }
  const credentials = await natsCredentials(flags);
  return natsTransport({
    url: server,
    token,
    ...(credentials && { credentials }),
    ...await natsTrust(flags),
    queueBytes: QUEUE_BYTES,
    ...connectWaits(flags),
  });
}

/** Over WebSocket or HTTP. */
function direct(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  { server, flag, token }: Way,
): Transport {
  const shown = withoutCredentials(server);
  let url: URL;
  try {
    url = new URL(server);
  } catch {
    throw new UsageError(`Cannot join as ${flag} must be a URL: current value is "${shown}"`);
  }
  if (!["ws:", "wss:", "http:", "https:"].includes(url.protocol)) {
    throw new UsageError(
      `Cannot join as ${flag} must begin with ws, wss, http, https, nats+ws or nats+wss: current value is "${shown}"`,
    );
  }
  const options = { url, token, queueBytes: QUEUE_BYTES, ...connectWaits(flags) };
  const make = url.protocol.startsWith("ws") ? webSocketTransport : httpTransport;
  const { fingerprint } = flags;
  return fingerprint === ""
    ? named(make(options))
    : pinned(url, fingerprint, (caCerts) => make({ ...options, caCerts }));
}

/**
 * The link to emulate; `null` without `--link`.
 *
 * @throws {UsageError} If there is no such link, or it is slowed down in another way too.
 */
export async function emulatedLink(
  flags: Pick<FlagValues<typeof CONNECTION_FLAGS>, "link" | "bandwidth" | "latency">,
): Promise<LinkProfile | null> {
  if (flags.link === "") return null;
  if (flags.bandwidth !== 0 || flags.latency !== 0) {
    throw new UsageError(
      `Cannot emulate ${flags.link} as --link takes the place of --bandwidth and --latency: current values are ${flags.bandwidth} and ${flags.latency}`,
    );
  }
  return await linkOf(flags.link);
}
