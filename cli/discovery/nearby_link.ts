/**
 * The way to an edge server that nobody gave the address of: one on this machine, or one that announces itself.
 *
 * @module
 */

import {
  type Channel,
  ChannelClosedError,
  HandshakeError,
  type Transport,
  type WaitOptions,
} from "@edgetuner/core";
import {
  type CONNECTION_FLAGS,
  joinToken,
  linkOver,
  openTransport,
  type ServerLink,
} from "../flags/connection.ts";
import type { FlagValues } from "../flags/flags.ts";
import { requireWaits } from "../flags/waiting_flags.ts";
import { type Announcement, joinAddresses } from "./announcement.ts";
import { findOwnServer } from "./find.ts";

type Flags = FlagValues<typeof CONNECTION_FLAGS>;

/** How long each attempt looks for announcements, in milliseconds. */
const LOOK_MS = 2500;

/**
 * Prepares the way to an edge server on this machine, or else to the one of this network that announces itself and
 * has the token. It is looked for each time a connection is made: it may come back with another address.
 *
 * @param here Address on this machine.
 * @throws {UsageError} If token, link or limits are not valid.
 */
export async function openNearbyLink(program: string, flags: Flags, here: string): Promise<ServerLink> {
  requireWaits(program, flags);
  const { fingerprint } = flags;
  // Without TLS there is none to look at.
  const local = await openTransport({ ...flags, fingerprint: "" }, here, "--server");
  const look = fingerprint !== "" || mayLook();
  return linkOver(flags, here, (say) => ({
    ...local,
    connect: async (options) => {
      let refused: HandshakeError | null = null;
      try {
        if (fingerprint === "") return await local.connect(options);
      } catch (error) {
        const isElsewhere = error instanceof ChannelClosedError || error instanceof HandshakeError;
        if (!look || !isElsewhere) throw error;
        // Another run on this machine, perhaps.
        if (error instanceof HandshakeError) refused = error;
      }
      return await connectToFound(flags, { here, say, options, refused });
    },
  }));
}

/** How to connect to one that is found. */
interface Finding {
  readonly here: string;
  readonly say: (line: string) => void;
  readonly options: WaitOptions | undefined;
  /** What the one on this machine has said; `null` if there is none. */
  readonly refused: HandshakeError | null;
}

async function connectToFound(flags: Flags, { here, say, options, refused }: Finding): Promise<Channel> {
  const { fingerprint } = flags;
  const found = await findOwnServer({
    ...{ token: joinToken(flags), fingerprint, waitMs: LOOK_MS },
    ...(options?.signal && { signal: options.signal }),
  });
  if (found === null) {
    throw refused ?? new ChannelClosedError(
      `No edge server ${
        fingerprint === "" ? `is at ${here}, and none` : "with the fingerprint"
      } announces itself here with this token; give its address with --server`,
    );
  }
  say(`Found run ${found.run}`);
  let last: unknown;
  for (const transport of await transportsTo(flags, found)) {
    try {
      return await transport.connect(options);
    } catch (error) {
      if (!(error instanceof ChannelClosedError)) throw error;
      last = error;
    }
  }
  throw last;
}

/** Ways to one that was found, the nearest first. */
async function transportsTo(flags: Flags, found: Announcement): Promise<Transport[]> {
  // It stands in what the token proves.
  const { fingerprint } = found;
  return await Promise.all(
    joinAddresses(found).map((address) => openTransport({ ...flags, fingerprint }, address, "--server")),
  );
}

/** True if Deno may use multicast DNS without asking anybody. */
function mayLook(): boolean {
  return ["0.0.0.0:5353", "224.0.0.251:5353"].every((host) =>
    Deno.permissions.querySync({ name: "net", host }).state === "granted"
  );
}
