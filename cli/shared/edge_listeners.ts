/**
 * Where devices and programs come in at an edge server: WebSocket and HTTP at its own port, and a broker.
 *
 * @module
 */

import type { Listener, ListenError } from "@edgetuner/core";
import { PAGE_FILES } from "@edgetuner/page";
import {
  type Authorize,
  httpListener,
  invitedDeviceOf,
  requireToken,
  webSocketListener,
} from "@edgetuner/transport";
import { natsAddress, natsListener } from "@edgetuner/transport/nats";
import {
  createControlApp,
  Invitations,
  requireKnown,
  type RunStore,
  serve,
  type ServedModel,
  type Serving,
  Sessions,
} from "@edgetuner/transport/server";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { announce } from "../discovery/announce.ts";
import { announcementWith, splitAddress } from "../discovery/announcement.ts";
import { ANNOUNCE_FLAGS, interfaceToAnnounceOn, isLoopback } from "../flags/discovery_flags.ts";
import { type FlagValues, integer, text, UsageError } from "../flags/flags.ts";
import { isNats, NATS_FLAGS, natsCredentials, natsTrust, withoutCredentials } from "../flags/nats_flags.ts";
import { pollWaits, type RUN_WAITS, socketWaits } from "../flags/waiting_flags.ts";
import { type Reachable, reachable } from "../output/addresses.ts";
import { INVITE_FLAGS } from "./invites.ts";
import { keepRequests } from "./kept_requests.ts";
import { type Certificate, certificateOf, TLS_FLAGS } from "./tls.ts";
import { versions } from "../output/report.ts";
import type { WorkerRun } from "../process/worker_run.ts";

/** Bytes a device may have under way: a few frames of a large model. */
const QUEUE_BYTES = 2 ** 28;
/** Longest time for those who watch to take the last event, in milliseconds. */
const SHUTDOWN_MS = 100;

/** How long the first link signs a browser in, in milliseconds: those who start a run may look at it later. */
const FIRST_LINK_MS = 86_400_000;

/** Flags that say where an edge server listens. */
export const LISTEN_FLAGS = {
  host: COMMON_FLAGS.host,
  port: COMMON_FLAGS.port,
  "max-connections": integer("N", 0, "most connections at once; 0 = as the limit of open files allows", {
    min: 0,
  }),
  ...TLS_FLAGS,
  "allow-host": text(
    "NAMES",
    "",
    "names of this server by which browsers may call it, beside localhost and addresses; with --tls self-signed the certificate is for them too, and for addresses given here: a,b,c",
  ),
  "allow-origin": text(
    "ORIGINS",
    "",
    "origins of pages on other servers that may use this one, such as https://example.org: a,b,c",
  ),
  nats: text(
    "URL",
    "",
    "devices may join through this NATS broker too: nats+ws(s)://HOST:PORT, or with /RUN for a name of the run there",
  ),
  ...NATS_FLAGS,
  ...ANNOUNCE_FLAGS,
  ...INVITE_FLAGS,
};

type ListenFlags = FlagValues<typeof LISTEN_FLAGS> & FlagValues<typeof RUN_WAITS>;

/** Tokens of devices and of the REST API. */
export interface Tokens {
  readonly join: string;
  readonly admin: string;
  /** True if nobody has chosen the token of devices. */
  readonly isNew: boolean;
}

/** Where an edge server listens. */
export interface ListenAddress extends Reachable {
  readonly port: number;
  /** Address of the run at a broker, as it may be shown; empty without one. */
  readonly nats: string;
  /** SHA-256 of the certificate that was made here; empty without one. */
  readonly fingerprint: string;
  readonly isTls: boolean;
  /** What stands behind the address to sign a browser in, once; empty without a page to sign in to. */
  readonly signIn: string;
}

/** Where devices and programs come in. */
export interface EdgeListeners {
  /** Devices that are invited. */
  readonly invitations: Invitations;
  /** Listens, and lets devices join the run. */
  open(run: WorkerRun): Promise<ListenAddress>;
  /** Closes it once the devices have had their last frames, or after so many milliseconds. */
  close(run: WorkerRun, drainMs: number): Promise<void>;
}

/**
 * Checks the flags of listening, before anything is loaded.
 *
 * @throws {UsageError} If the address of the broker is none, or a name or an origin is none.
 */
export function requireListenFlags(flags: ListenFlags): void {
  const { nats } = flags;
  interfaceToAnnounceOn(flags);
  if (flags["approve-all"] && !flags.invite) {
    throw new UsageError("Cannot use --approve-all without --invite");
  }
  for (const host of listOf(flags["allow-host"])) {
    if (!/^[\w.-]+$/.test(host)) {
      throw new UsageError(`--allow-host must have names without a port: current value is ${host}`);
    }
  }
  for (const origin of listOf(flags["allow-origin"])) {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin) {
      throw new UsageError(
        `--allow-origin must have origins such as https://example.org: current value is ${origin}`,
      );
    }
  }
  if (nats === "") {
    for (const flag of ["nats-creds", "nats-nkey", "nats-ca"] as const) {
      if (flags[flag] !== "") throw new UsageError(`Cannot use --${flag} without --nats`);
    }
    return;
  }
  try {
    natsAddress(nats);
  } catch (error) {
    throw new UsageError(`--nats: ${(error as Error).message}`);
  }
}

/** Values of a flag between commas. */
function listOf(text: string): string[] {
  return text.split(",").map((value) => value.trim()).filter((value) => value !== "");
}

/** Prepares what listens: frames over WebSocket and HTTP, and the REST API. */
export function openListeners(
  flags: ListenFlags,
  tokens: Tokens,
  store: RunStore | null,
): EdgeListeners {
  const sockets = webSocketListener({ queueBytes: QUEUE_BYTES, ...socketWaits(flags) });
  const polls = httpListener({ queueBytes: QUEUE_BYTES, ...pollWaits(flags) });
  const listeners: Listener[] = [sockets, polls];
  const runs = new Map<string, WorkerRun>();
  const models = new Map<string, ServedModel>();
  const known = {
    joinToken: tokens.join,
    adminToken: tokens.admin,
    sessions: new Sessions(),
    invitations: new Invitations({ approveAll: flags["approve-all"] }),
  };
  const app = createControlApp({
    ...known,
    runs,
    pages: PAGE_FILES,
    store: store ?? undefined,
    models,
    // A name that it listens on is its own.
    allowHosts: [...listOf(flags["allow-host"]), flags.host],
    allowOrigins: listOf(flags["allow-origin"]),
    webSocket: sockets,
    http: polls,
    version: versions().edgetuner!,
  });
  let server: Serving;
  let accepting: Promise<unknown>;
  let announced: AsyncDisposable | null = null;
  return {
    invitations: known.invitations,
    async open(run) {
      runs.set(run.run, run);
      await keepRequests(known.invitations, run);
      if (run.served !== null) models.set(run.run, run.served);
      const nats = await openNats(flags, { tokens, run });
      if (nats !== null) listeners.push(nats.listener);
      const tls = await certificateOf(flags).catch((error) => {
        run.stop("not listening");
        throw error;
      });
      server = await listen(app, { flags, authorize: requireKnown(known), run, tls });
      accepting = Promise.all(listeners.map(async (listener) => {
        for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
          run.join(channel, { device: invitedDeviceOf(channel) });
        }
      }));
      const reached = reachable(flags.host, server.port);
      announced = await announceRun(flags, { tokens, run, addresses: reached.addresses, tls });
      return {
        ...reached,
        port: server.port,
        nats: nats?.url ?? "",
        fingerprint: tls?.fingerprint ?? "",
        isTls: tls !== null,
        signIn: PAGE_FILES.has("/") ? await known.sessions.link(FIRST_LINK_MS) : "",
      };
    },
    async close(run, drainMs) {
      await announced?.[Symbol.asyncDispose]();
      // The devices take their last frames before the sockets go. Where the run failed some of them may be gone.
      await within(drainMs, run.drained());
      await Promise.all(listeners.map((listener) => listener[Symbol.asyncDispose]()));
      await accepting;
      await server.shutdown(SHUTDOWN_MS);
    },
  };
}

/** Lets devices in through a broker; `null` without one. */
async function openNats(
  flags: ListenFlags,
  { tokens, run }: { readonly tokens: Tokens; readonly run: WorkerRun },
): Promise<{ readonly listener: Listener; readonly url: string } | null> {
  const { nats } = flags;
  if (!isNats(nats)) return null;
  const url = natsAddress(nats).run === "" ? `${nats.replace(/\/$/, "")}/${run.run}` : nats;
  try {
    const credentials = await natsCredentials(flags);
    const listener = await natsListener({
      url,
      ...(credentials && { credentials }),
      ...await natsTrust(flags),
      authorize: requireToken(tokens.join, tokens.admin),
      queueBytes: QUEUE_BYTES,
      ...socketWaits(flags),
    });
    return { listener, url: withoutCredentials(url) };
  } catch (error) {
    run.stop("not listening");
    throw new UsageError(`--nats: ${(error as Error).message}`);
  }
}

/** Lets devices of the network find the run; `null` without --announce. */
async function announceRun(
  flags: ListenFlags,
  { tokens, run, addresses, tls }: {
    readonly tokens: Tokens;
    readonly run: WorkerRun;
    readonly addresses: readonly string[];
    readonly tls: Certificate | null;
  },
): Promise<AsyncDisposable | null> {
  const address = interfaceToAnnounceOn(flags);
  if (address === null) return null;
  const reached = addresses.filter((at) => {
    const host = splitAddress(at)?.host;
    return host !== undefined && (isLoopback(address) || !isLoopback(host));
  });
  try {
    if (reached.length === 0) {
      throw new Error(
        `an address must be there that others reach: there is only ${
          addresses.join(", ")
        }; try --host 0.0.0.0`,
      );
    }
    const announcement = await announcementWith(tokens.join, {
      ...{ run: run.run, addresses: reached, isTls: tls !== null, fingerprint: tls?.fingerprint ?? "" },
    });
    return await announce(announcement, address);
  } catch (error) {
    run.stop("not listening");
    throw new UsageError(`Cannot use --announce: ${(error as Error).message}`);
  }
}

async function listen(
  app: ReturnType<typeof createControlApp>,
  { flags, authorize, run, tls }: {
    readonly flags: ListenFlags;
    readonly authorize: Authorize;
    readonly run: WorkerRun;
    readonly tls: Certificate | null;
  },
): Promise<Serving> {
  try {
    return await serve(app, {
      hostname: flags.host,
      port: flags.port,
      authorize,
      ...(tls && { tls }),
      ...(flags["max-connections"] > 0 && { maxConnections: flags["max-connections"] }),
    });
  } catch (error) {
    run.stop("not listening");
    const { message, code } = error as ListenError;
    throw new UsageError(code === "EADDRINUSE" ? `${message}; try --port 0` : message);
  }
}

/** Waits, but not for long. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
