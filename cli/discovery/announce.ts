/**
 * An edge server announces itself in its network.
 *
 * @module
 */

import { type Announcement, recordsOf, SERVICE } from "./announcement.ts";
import { type DnsMessage, openMulticast } from "./multicast.ts";

/** Least time between two answers, in milliseconds: whoever asks all the time makes no storm of them. */
const QUIET_MS = 1000;
/** Longest time for the farewell to leave, in milliseconds. */
const FAREWELL_MS = 500;

/**
 * Announces an edge server until it is disposed of.
 *
 * @param announcement What is said.
 * @param address IPv4 address of the interface to announce on; empty for the machine's own choice.
 * @throws {ChannelClosedError} If multicast DNS cannot be used here.
 */
export async function announce(announcement: Announcement, address = ""): Promise<AsyncDisposable> {
  const socket = await openMulticast(address);
  const records = recordsOf(announcement);
  const names = new Set(records.map(({ name }) => name.toLowerCase()).concat(SERVICE));
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last = -Infinity;
  const answer = () => {
    timer = undefined;
    last = performance.now();
    void socket.respond(records);
  };
  const isAsked = ({ questions }: DnsMessage) =>
    questions.some(({ name }) => typeof name === "string" && names.has(name.toLowerCase()));
  socket.onQuery((message) => {
    if (timer === undefined && isAsked(message)) {
      timer = setTimeout(answer, Math.max(0, last + QUIET_MS - performance.now()));
    }
  });
  answer();
  return {
    async [Symbol.asyncDispose]() {
      clearTimeout(timer);
      const { promise: late, resolve } = Promise.withResolvers<void>();
      const limit = setTimeout(resolve, FAREWELL_MS);
      await Promise.race([socket.respond(recordsOf(announcement, { isLeaving: true })), late]);
      clearTimeout(limit);
      await socket[Symbol.asyncDispose]();
    },
  };
}
