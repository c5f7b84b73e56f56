/**
 * Sockets of `node:net`: an answer to a request that asked for a WebSocket, and whether a server accepts.
 *
 * @module
 */

import { STATUS_CODES } from "node:http";
import { connect, type Socket } from "node:net";

/** Longest time in which a client takes an answer, in milliseconds. */
const WRITE_MS = 5000;

/** Writes an answer in plain HTTP, then closes. */
export async function writeResponse(socket: Socket, response: Response): Promise<void> {
  const body = new Uint8Array(await response.arrayBuffer());
  const headers = new Headers(response.headers);
  headers.set("connection", "close");
  headers.set("content-length", String(body.byteLength));
  const lines = [`HTTP/1.1 ${response.status} ${STATUS_CODES[response.status] ?? ""}`];
  for (const [name, value] of headers) lines.push(`${name}: ${value}`);
  const done = Promise.withResolvers<void>();
  const timer = setTimeout(() => done.resolve(), WRITE_MS);
  socket.once("close", () => done.resolve());
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  socket.end(body, () => done.resolve());
  await done.promise;
  clearTimeout(timer);
  socket.destroy();
}

/**
 * Connects to a server of this process to see whether it accepts.
 *
 * @param came True once the server has accepted a connection.
 * @returns False if it does not within the limit; true also where that cannot be told.
 */
export async function isAccepting(
  hostname: string,
  port: number,
  limitMs: number,
  came: () => boolean,
): Promise<boolean> {
  const probe = Promise.withResolvers<"there" | "refused" | "unknown">();
  const socket = connect({ host: hostname, port });
  socket.once("connect", () => probe.resolve("there"));
  socket.once("error", ({ code }: Error & { readonly code?: string }) =>
    // Out of files, or not allowed: the next look tells.
    probe.resolve(code === "ECONNREFUSED" ? "refused" : "unknown"));
  const timer = setTimeout(() => probe.resolve("there"), limitMs);
  try {
    const outcome = await probe.promise;
    if (outcome !== "there") return came() || outcome === "unknown";
    const until = performance.now() + limitMs;
    // The event loop may have been busy until now: it gets its turns before anything is concluded.
    while (!came() && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 10));
    return came();
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}
