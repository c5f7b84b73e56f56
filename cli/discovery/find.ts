/**
 * Looks for edge servers that announce themselves.
 *
 * @module
 */

import { type Announcement, announcementOf, isProven, SERVICE, splitAddress } from "./announcement.ts";
import { openMulticast } from "./multicast.ts";

/** Most announcements that are kept: anybody may send any number of them. */
export const MAX_FOUND = 64;
/** Most announcements whose proof is checked, as each takes some work. */
export const MAX_CHECKED = 16;
/** When it asks, in milliseconds from the start; later ones every four seconds. */
const ASK_AT_MS = [0, 300, 1200];
const ASK_EVERY_MS = 4000;

/** How to look. */
export interface FindOptions {
  /** How long, in milliseconds. */
  readonly waitMs: number;
  /** IPv4 address of the interface to look on; empty for the machine's own choice. */
  readonly address?: string;
  /** True once nothing else is looked for. @default {it looks to the end of the time} */
  readonly isEnough?: (found: Announcement) => boolean | Promise<boolean>;
  /** Ends the looking early. */
  readonly signal?: AbortSignal;
}

/**
 * Finds edge servers. What is not in the form of an announcement is left out, as is what comes after
 * {@linkcode MAX_FOUND}.
 *
 * @throws {ChannelClosedError} If multicast DNS cannot be used here.
 */
export async function findServers(options: FindOptions): Promise<Announcement[]> {
  const { waitMs, address = "", isEnough = () => false, signal } = options;
  signal?.throwIfAborted();
  await using socket = await openMulticast(address);
  const found = new Map<string, Announcement>();
  const checks: Promise<unknown>[] = [];
  const { promise: over, resolve: end, reject } = Promise.withResolvers<void>();
  socket.onResponse(({ answers, additionals }, source) => {
    for (const record of [...answers, ...additionals].slice(0, 4 * MAX_FOUND)) {
      const read = announcementOf(record);
      if (read === null) continue;
      // One of the same name from elsewhere is another one.
      const key = JSON.stringify([source.address, read]);
      if (record.ttl === 0) found.delete(key);
      else if (!found.has(key) && found.size < MAX_FOUND) {
        const nearest = nearestFirst(read, source.address);
        found.set(key, nearest);
        checks.push(Promise.resolve(isEnough(nearest)).then((enough) => enough && end(), reject));
      }
    }
  });
  const ask = () => socket.query({ name: SERVICE, type: "PTR" });
  const timers = ASK_AT_MS.filter((ms) => ms < waitMs).map((ms) => setTimeout(ask, ms));
  const again = setInterval(ask, ASK_EVERY_MS);
  const limit = setTimeout(end, waitMs);
  const abort = () => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  try {
    // It may have ended while the socket was opened.
    signal?.throwIfAborted();
    await over;
  } finally {
    for (const timer of [...timers, again, limit]) clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    await Promise.all(checks);
  }
  return [...found.values()];
}

/** Puts the address that the answer came from first: that one can be reached. */
function nearestFirst(found: Announcement, source: string): Announcement {
  const away = (address: string) => Number(splitAddress(address)?.host !== source);
  return { ...found, addresses: found.addresses.toSorted((a, b) => away(a) - away(b)) };
}

/** What a device looks for. */
export interface WantedServer {
  /** The token of devices, which the edge server must have too. */
  readonly token: string;
  /** SHA-256 of its certificate; empty for any. */
  readonly fingerprint: string;
  readonly waitMs: number;
  readonly address?: string;
  readonly signal?: AbortSignal;
}

/**
 * Finds the edge server that has the device's token. Of others it makes nothing: they may be anybody's.
 *
 * @returns It, or `null` if none was found in time.
 * @throws {ChannelClosedError} If multicast DNS cannot be used here.
 */
export async function findOwnServer(wanted: WantedServer): Promise<Announcement | null> {
  const { token, fingerprint, ...options } = wanted;
  const plain = (text: string) => text.replaceAll(":", "").toUpperCase();
  let own: Announcement | null = null;
  let checked = 0;
  await findServers({
    ...options,
    isEnough: async (found) => {
      if (own !== null || (fingerprint !== "" && plain(found.fingerprint) !== plain(fingerprint))) {
        return false;
      }
      if (++checked > MAX_CHECKED) return false;
      if (!await isProven(found, token)) return false;
      own ??= found;
      return true;
    },
  });
  return own;
}
