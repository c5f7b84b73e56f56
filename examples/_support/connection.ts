/**
 * The way to an edge server.
 *
 * @module
 */

import type { Transport } from "@edgetuner/core";
import { emulateLink, httpTransport, webSocketTransport } from "@edgetuner/transport";
import { type FlagValues, number, text, UsageError } from "./flags.ts";

/** Flags of every program that joins an edge server, beside where that is. */
export const CONNECTION_FLAGS = {
  token: text("TOKEN", "", "join token; or EDGETUNER_JOIN_TOKEN"),
  bandwidth: number("MBIT", 0, "slow the link down to this many Mbit/s each way; 0 = as it is", { min: 0 }),
  latency: number("MS", 0, "slow the link down by this many milliseconds each way", { min: 0 }),
  "connect-timeout": number("S", 10, "longest wait for the edge server to answer, in seconds", { min: 0.1 }),
};

/** Prepares the way to an edge server; `flag` is what its address is called. */
export function openTransport(
  flags: FlagValues<typeof CONNECTION_FLAGS>,
  server: string,
  flag: string,
): Transport {
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
  if (flags.bandwidth === 0 && flags.latency === 0) return transport;
  return emulateLink(transport, {
    bandwidthBytesPerSecond: flags.bandwidth === 0 ? Number.MAX_SAFE_INTEGER : flags.bandwidth * 1e6 / 8,
    latencyMs: flags.latency,
  });
}
