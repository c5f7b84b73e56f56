import { type Channel, ChannelClosedError, HandshakeError, type Transport } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { testStrictly, within } from "../tests/conformance/transport_suite.ts";
import { address, nowhere, serve } from "./_fixtures_test.ts";
import { type ConnectAttempt, connectWithin } from "./connect.ts";
import { httpTransport } from "./http.ts";
import { inProcessTransport } from "./in_process.ts";
import { requireToken } from "./token.ts";
import { webSocketListener, webSocketTransport } from "./web_socket.ts";
import { assertQuick } from "../tests/support/quick.ts";

testStrictly("connectWithin() reaches a listener that comes later", async () => {
  const { port } = new URL(nowhere());
  const attempts: ConnectAttempt[] = [];
  const connecting = connectWithin(webSocketTransport({ url: `ws://127.0.0.1:${port}/` }), {
    timeoutMs: 20_000,
    firstPauseMs: 50,
    maxPauseMs: 200,
    onRetry: (attempt) => attempts.push(attempt),
  });
  const tried = Promise.withResolvers<void>();
  const timer = setInterval(() => attempts.length >= 4 && tried.resolve(), 5);
  await within(tried.promise, "four attempts");
  clearInterval(timer);
  await using listener = webSocketListener();
  await using _server = Deno.serve(
    { hostname: "127.0.0.1", port: Number(port), onListen() {} },
    (request) => listener.handle(request),
  );
  await using device = await within(connecting, "connect");
  await using edge = await within(listener.accept(), "accept");
  assert(device && edge);
  assertEquals(attempts.slice(0, 4).map(({ pauseMs }) => pauseMs), [50, 100, 200, 200]);
  assert(attempts.every(({ error }) => error instanceof ChannelClosedError));
});

testStrictly("connectWithin() says at its limit what was tried", async () => {
  const url = nowhere();
  const began = performance.now();
  const error = await assertRejects(
    () => connectWithin(httpTransport({ url }), { timeoutMs: 400, firstPauseMs: 50 }),
    ChannelClosedError,
  );
  assertStringIncludes(error.message, `Cannot connect to ${url}: `);
  assertStringIncludes(error.message, "attempts within 400 ms");
  assertQuick(performance.now() - began, 1000);
  // One that never answers, and says nothing itself.
  const silent: Transport = {
    ...inProcessTransport().transport,
    connect: ({ signal } = {}) =>
      new Promise<Channel>((_, reject) => signal!.addEventListener("abort", () => reject(signal!.reason))),
  };
  await assertRejects(
    () => connectWithin(silent, { timeoutMs: 50, name: "edge:1" }),
    ChannelClosedError,
    "Cannot connect to edge:1: no answer; one attempt within 50 ms",
  );
});

testStrictly("connectWithin() tries once where it is refused for good, and stops at its signal", async () => {
  await using listener = webSocketListener({ authorize: requireToken("secret") });
  await using server = serve((request) => listener.handle(request));
  const onRetry = () => assert(false, "no second attempt");
  for (const transport of [webSocketTransport, httpTransport]) {
    const refused = transport({ url: address(server), token: "other" });
    await assertRejects(() => connectWithin(refused, { onRetry }), HandshakeError, "the token was refused");
  }
  const abort = new AbortController();
  const unreachable = webSocketTransport({ url: nowhere() });
  const connecting = connectWithin(unreachable, {
    signal: abort.signal,
    firstPauseMs: 60_000,
    maxPauseMs: 60_000,
    timeoutMs: 600_000,
    onRetry: () => queueMicrotask(() => abort.abort(new Error("changed my mind"))),
  });
  await assertRejects(() => within(connecting, "the end of connecting"), Error, "changed my mind");
});
