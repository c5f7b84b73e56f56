/**
 * A program of a library user: connects, and is done when its channel has ended. It calls no `Deno.exit`.
 *
 *     deno run -A tests/support/silent_link.ts URL
 *
 * @module
 */

import { webSocketTransport } from "@edgetuner/transport";

const limits = { idleTimeoutMs: 200, retryTimeoutMs: 100 };
const channel = await webSocketTransport({ url: Deno.args[0]!, ...limits }).connect();
if (Deno.args[1] === "busy") {
  // More than sockets hold: the farewell will not leave either.
  void (async () => {
    for (;;) await channel.send(new Uint8Array(2 ** 22));
  })().catch(() => {});
}
console.log("connected");
console.log((await channel.closed).reason);
