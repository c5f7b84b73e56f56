/**
 * Multicast DNS: the socket that edge servers announce themselves at, and that devices look for them with.
 *
 * @module
 */

import multicastDns from "multicast-dns";
import { ChannelClosedError } from "@edgetuner/core";
import type { DnsRecord } from "./announcement.ts";

/** What is asked. */
export interface DnsQuestion {
  readonly name: string;
  readonly type: string;
}

/** A message of multicast DNS, as it comes. */
export interface DnsMessage {
  readonly questions: readonly DnsQuestion[];
  readonly answers: readonly DnsRecord[];
  readonly additionals: readonly DnsRecord[];
}

/** Where a message comes from. */
export interface DnsSource {
  readonly address: string;
}

/** A socket of multicast DNS. */
export interface MulticastSocket extends AsyncDisposable {
  /** Hears of questions. */
  onQuery(hear: (message: DnsMessage) => void): void;
  /** Hears of answers. */
  onResponse(hear: (message: DnsMessage, source: DnsSource) => void): void;
  query(question: DnsQuestion): void;
  respond(records: readonly DnsRecord[]): Promise<void>;
}

/** What the library has, which brings no types. */
interface Library {
  on(event: "query", hear: (message: DnsMessage) => void): void;
  on(event: "response", hear: (message: DnsMessage, source: DnsSource) => void): void;
  on(event: "ready", hear: () => void): void;
  on(event: "error" | "warning", hear: (error: Error) => void): void;
  query(questions: readonly DnsQuestion[]): void;
  respond(message: { readonly answers: readonly DnsRecord[] }, done: () => void): void;
  destroy(done: () => void): void;
}

/** Longest time to open the socket, in milliseconds. */
const OPEN_MS = 2000;

/**
 * Opens a socket.
 *
 * @param address IPv4 address of the interface to take part on; empty for those of the machine.
 * @throws {ChannelClosedError} If it cannot be opened; the message says what to do instead.
 */
export async function openMulticast(address: string): Promise<MulticastSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => reject(new Error(`not open within ${OPEN_MS} ms`)), OPEN_MS);
  let socket: Library | undefined;
  const close = () => new Promise<void>((closed) => socket === undefined ? closed() : socket.destroy(closed));
  try {
    const opened = multicastDns({ bind: "0.0.0.0", interface: interfaceOf(address) }) as Library;
    socket = opened;
    opened.on("ready", resolve);
    opened.on("error", reject);
    // What is not valid DNS, or an interface that takes no part.
    opened.on("warning", () => {});
    await promise;
  } catch (error) {
    await close();
    throw new ChannelClosedError(
      `Cannot use multicast DNS on port 5353: ${
        (error as Error).message
      }; give devices the address that the edge server prints: join --server ADDRESS`,
      { cause: error },
    );
  } finally {
    clearTimeout(timer);
  }
  const open = socket!;
  return {
    onQuery: (hear) => open.on("query", hear),
    onResponse: (hear) => open.on("response", hear),
    query: (question) => open.query([question]),
    respond: (records) => new Promise((sent) => open.respond({ answers: records }, () => sent())),
    [Symbol.asyncDispose]: close,
  };
}

/** The interface to take part on; `undefined` for those of the machine, which Deno must be allowed to ask for. */
function interfaceOf(address: string): string | undefined {
  if (address !== "") return address;
  const permission = { name: "sys", kind: "networkInterfaces" } as const;
  return Deno.permissions.querySync(permission).state === "granted" ? undefined : "0.0.0.0";
}
