/**
 * A server of its own process, for tests of its limits: sends back what devices send, until its input ends.
 *
 * @module
 */

import { httpListener, requireToken, webSocketListener } from "@edgetuner/transport";
import { createControlApp, serve } from "@edgetuner/transport/server";
import type { Listener } from "@edgetuner/core";

const TOKEN = "a-join-token";

async function echo(listener: Listener): Promise<void> {
  for (let channel = await listener.accept(); channel !== null; channel = await listener.accept()) {
    const open = channel;
    (async () => {
      for (let frame = await open.receive(); frame !== null; frame = await open.receive()) {
        await open.send(frame);
      }
    })().catch(() => {});
  }
}

// As programs do; and the runtime needs a file for its first signal.
Deno.addSignalListener("SIGTERM", () => Deno.exit(0));
const webSocket = webSocketListener();
const http = httpListener();
void echo(webSocket);
void echo(http);
const app = createControlApp({
  runs: new Map(),
  joinToken: TOKEN,
  adminToken: "an-admin-token",
  webSocket,
  http,
});
const server = await serve(app, {
  authorize: requireToken(TOKEN),
  ...JSON.parse(Deno.args[0] ?? "{}"),
});
console.log(server.port);
// What is asked for line by line: how many connections there are.
const decoder = new TextDecoder();
for await (const _line of Deno.stdin.readable) {
  console.log(JSON.stringify(server.connections), decoder.decode());
}
await server.shutdown(1000);
Deno.exit(0);
