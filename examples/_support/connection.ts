/**
 * The way to an edge server.
 *
 * @module
 */

import { LINK_PROFILES, type LinkProfile, type Transport } from "@edgetuner/core";
import { emulateLink, httpTransport, webSocketTransport } from "@edgetuner/transport";
import { type FlagValues, integer, number, text, UsageError } from "./flags.ts";
import { linkOf } from "./twin_flags.ts";

/** Flags of every program that joins an edge server, beside where that is. */
export const CONNECTION_FLAGS = {
  token: text("TOKEN", "", "join token; or EDGETUNER_JOIN_TOKEN"),
  bandwidth: number("MBIT", 0, "slow the link down to this many Mbit/s each way; 0 = as it is", { min: 0 }),
  latency: number("MS", 0, "slow the link down by this many milliseconds each way", { min: 0 }),
  link: text(
    "LINK",
    "",
    `in place of both: emulate ${
      Object.keys(LINK_PROFILES).join(", ")
    }, or a JSON file with jitter, losses, failures`,
  ),
  "link-seed": integer("N", 1, "--link: seed of jitter, losses and failures", { min: 0 }),
  "link-device": integer("N", 0, "--link: number of this device, from 0, in the file's failures", { min: 0 }),
  "connect-timeout": number("S", 10, "longest wait for the edge server to answer, in seconds", { min: 0.1 }),
};

/**
 * Prepares the way to an edge server; `flag` is what its address is called.
 *
 * @throws {UsageError} If address, token or link are not as they must be.
 */
export async function openTransport(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  server: string,
  flag: string,
): Promise<Transport> {
  const token = flags.token || Deno.env.get("EDGETUNER_JOIN_TOKEN") || "";
  if (token === "") {
    throw new UsageError(
      "Cannot join as a token must be given: use --token or EDGETUNER_JOIN_TOKEN; the edge server prints it",
    );
  }
  let url: URL;
  try {
    url = new URL(server);
  } catch {
    throw new UsageError(`Cannot join as ${flag} must be a URL: current value is "${server}"`);
  }
  if (!["ws:", "wss:", "http:", "https:"].includes(url.protocol)) {
    throw new UsageError(
      `Cannot join as ${flag} must begin with ws, wss, http or https: current value is "${server}"`,
    );
  }
  const options = {
    url,
    token,
    queueBytes: 2 ** 28,
    connectTimeoutMs: flags["connect-timeout"] * 1000,
  };
  const transport = url.protocol.startsWith("ws") ? webSocketTransport(options) : httpTransport(options);
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
