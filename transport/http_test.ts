import { type Channel, ChannelClosedError, HandshakeError } from "@edgetuner/core/contracts";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  isPending,
  pattern,
  testStrictly,
  testTransport,
  within,
} from "../tests/conformance/transport_suite.ts";
import { testLinkFaults } from "../tests/conformance/link_faults_suite.ts";
import {
  address,
  LIMITS,
  openFaultyHttp,
  openHttp,
  openProxiedHttp,
  serve,
  StoppingRelay,
} from "./_fixtures_test.ts";
import { type HttpListener, httpListener, httpTransport } from "./http.ts";
import { requireToken } from "./token.ts";
import { assertQuick } from "../tests/support/quick.ts";

testTransport({ name: "HTTP", open: openHttp });
testLinkFaults({ name: "HTTP", open: openFaultyHttp });
testTransport({ name: "HTTP through a proxy", mark: " [slow]", open: openProxiedHttp });

const SESSION = "edgetuner-session";
const ID = "A".repeat(43);

/** Makes a request as a peer would. */
function request(method: string, headers: Record<string, string>, body?: Uint8Array<ArrayBuffer>): Request {
  return new Request("http://localhost/", {
    method,
    headers: { [SESSION]: ID, ...headers },
    ...(body && { body }),
  });
}

/** Opens the session `ID` and accepts its channel. */
async function openSession(listener: HttpListener, grant = 1_000_000): Promise<Channel> {
  const response = await listener.handle(
    request("POST", { "edgetuner-open": "1", "edgetuner-grant": `${grant}` }),
  );
  await response.body?.cancel();
  assertEquals(response.status, 200);
  const channel = await within(listener.accept(), "accept");
  assert(channel);
  return channel;
}

async function statusOf(response: Promise<Response>): Promise<number> {
  const { status, body } = await within(response, "the answer");
  await body?.cancel();
  return status;
}

testStrictly("HTTP: repeats lost requests and answers without losing or doubling frames [slow]", async () => {
  await using listener = httpListener(LIMITS);
  await using server = serve((request) => listener.handle(request));
  let calls = 0;
  // Every third request does not arrive, every third answer does not come back.
  await using lossy = serve(async (request) => {
    const turn = request.headers.has("edgetuner-open") ? 1 : calls++ % 3;
    const body = await request.arrayBuffer();
    if (turn === 0) return new Response("Lost", { status: 502 });
    const answer = await fetch(address(server), {
      method: request.method,
      headers: [...request.headers].filter(([name]) => name.startsWith("edgetuner")),
      ...(body.byteLength > 0 && { body }),
    });
    const bytes = await answer.arrayBuffer();
    if (turn === 2) return new Response("Lost", { status: 504 });
    return new Response(answer.status === 204 ? null : bytes, {
      status: answer.status,
      headers: answer.headers,
    });
  });
  const device = await httpTransport({ url: address(lossy), ...LIMITS }).connect();
  const edge = await within(listener.accept(), "accept");
  assert(edge);
  async function take(channel: Channel): Promise<void> {
    for (let i = 0; i < 12; i++) assertEquals(await within(channel.receive(), "receive"), pattern(i, i));
  }
  async function give(channel: Channel): Promise<void> {
    for (let i = 0; i < 12; i++) {
      await within(channel.send(pattern(i, i)), "send");
      // So that they do not all share one request.
      await isPending(Promise.withResolvers<void>().promise, 2);
    }
  }
  await Promise.all([take(edge), take(device), give(edge), give(device)]);
  assert(calls > 6);
  await within(edge.close("done"), "close");
  assertEquals(await within(device.closed, "closed"), { clean: true, reason: "done" });
});

testStrictly("HTTP: puts several frames into one answer and keeps them until acknowledged", async () => {
  await using listener = httpListener();
  const edge = await openSession(listener);
  for (const size of [1, 0, 2]) await edge.send(pattern(size));
  const body = [1, 0, 0, 0, 0, /**/ 0, 0, 0, 0, /**/ 2, 0, 0, 0, 0, 31];
  for (let attempt = 0; attempt < 2; attempt++) {
    const answer = await listener.handle(request("GET", { "edgetuner-ack": "0" }));
    assertEquals(answer.headers.get("edgetuner-seq"), "0");
    assertEquals(answer.headers.get("cache-control"), "no-store");
    assertEquals([...await answer.bytes()], body);
  }
  const rest = await listener.handle(request("GET", { "edgetuner-ack": "2" }));
  assertEquals([...await rest.bytes()], body.slice(9));
  assertEquals(await statusOf(listener.handle(request("GET", { "edgetuner-ack": "4" }))), 409);
  const closing = edge.close("that is all");
  const end = await listener.handle(request("GET", { "edgetuner-ack": "3" }));
  assertEquals(end.headers.get("edgetuner-close"), "clean that%20is%20all");
  await within(closing, "close");
});

testStrictly("HTTP: skips repeated frames and refuses a gap", async () => {
  await using listener = httpListener();
  const edge = await openSession(listener);
  const post = (seq: number, ...body: number[]) =>
    statusOf(listener.handle(request("POST", { "edgetuner-seq": `${seq}` }, new Uint8Array(body))));
  assertEquals(await post(0, 1, 0, 0, 0, 50), 204);
  assertEquals(await post(0, 1, 0, 0, 0, 50, 1, 0, 0, 0, 51), 204);
  assertEquals(await post(1, 1, 0, 0, 0, 51), 204);
  assertEquals(await post(3, 1, 0, 0, 0, 53), 409);
  assertEquals(await post(2, 9, 0, 0, 0, 52), 400);
  assertEquals(await edge.receive(), new Uint8Array([50]));
  assertEquals(await edge.receive(), new Uint8Array([51]));
  await edge.close();
  assertEquals(await edge.receive(), null);
});

testStrictly("HTTP: answers what is not part of the protocol", async () => {
  await using listener = httpListener({ maxFrameBytes: 2 ** 20 });
  const ask = (method: string, headers: Record<string, string>, body?: Uint8Array<ArrayBuffer>) =>
    statusOf(listener.handle(request(method, headers, body)));
  assertEquals(await ask("GET", { "edgetuner-ack": "0" }), 404);
  assertEquals(await ask("POST", { "edgetuner-seq": "0" }), 404);
  assertEquals(await ask("PUT", {}), 405);
  assertEquals(await ask("POST", { "edgetuner-open": "1", "edgetuner-grant": "1", [SESSION]: "short" }), 400);
  const edge = await openSession(listener);
  assertEquals(await ask("POST", { "edgetuner-open": "1", "edgetuner-grant": "1" }), 409);
  assertEquals(await ask("POST", {}), 400);
  assertEquals(await ask("GET", { "edgetuner-ack": "-1" }), 400);
  assertEquals(await ask("POST", { "edgetuner-seq": "0" }, new Uint8Array(2 ** 20 + 5)), 413);
  assertEquals(await ask("POST", { "edgetuner-seq": "0" }, new Uint8Array(3)), 400);
  assertEquals(await isPending(edge.closed, 0), true);
  await edge.close();
});

testStrictly(
  "HTTP: a body that trickles in is given up, and one of a channel that has ended at once",
  async () => {
    await using listener = httpListener({ pollTimeoutMs: 20, idleTimeoutMs: 60 });
    const edge = await openSession(listener);
    let timer: ReturnType<typeof setInterval> | undefined;
    const trickle = () =>
      new Request("http://localhost/", {
        method: "POST",
        headers: { [SESSION]: ID, "edgetuner-seq": "0" },
        body: new ReadableStream<Uint8Array<ArrayBuffer>>({
          start: (controller) => {
            timer = setInterval(() => controller.enqueue(new Uint8Array(1)), 5);
          },
          cancel: () => clearInterval(timer),
        }),
      });
    // The session lives all the while: bytes come.
    assertEquals(await statusOf(listener.handle(trickle())), 408);
    assertEquals(await isPending(edge.closed, 0), true);
    const reading = statusOf(listener.handle(trickle()));
    const bye = request("POST", { "edgetuner-seq": "0", "edgetuner-close": "clean bye" });
    assertEquals(await statusOf(listener.handle(bye)), 204);
    assertEquals(await reading, 408);
    assertEquals((await within(edge.closed, "closed")).reason, "bye");
  },
);

testStrictly("HTTP: closes a peer that sends more than it may", async () => {
  await using listener = httpListener({ queueBytes: 640 });
  const edge = await openSession(listener);
  const post = request("POST", { "edgetuner-seq": "0" }, new Uint8Array(11 * 4));
  assertEquals(await statusOf(listener.handle(post)), 400);
  const info = await within(edge.closed, "closed");
  assertEquals(info, { clean: false, reason: "More than 640 bytes wait to be received" });
  const poll = await listener.handle(request("GET", { "edgetuner-ack": "0" }));
  assertStringIncludes(poll.headers.get("edgetuner-close") ?? "", "broken More%20than");
});

testStrictly("HTTP: a peer that grants much and fetches nothing holds the sender back", async () => {
  await using listener = httpListener({ queueBytes: 1000 });
  const edge = await openSession(listener, 1e14);
  await edge.send(pattern(900));
  await edge.send(pattern(900));
  const held = edge.send(pattern(3));
  assertEquals(await isPending(held), true);
  const poll = await listener.handle(request("GET", { "edgetuner-ack": "0" }));
  assertEquals((await poll.bytes()).byteLength, 2 * 904);
  assertEquals(await isPending(held), true);
  const next = await listener.handle(request("GET", { "edgetuner-ack": "1" }));
  assertEquals((await next.bytes()).byteLength, 904 + 7);
  await within(held, "the held send");
  const closing = edge.close();
  assertEquals(await statusOf(listener.handle(request("GET", { "edgetuner-ack": "3" }))), 204);
  await within(closing, "close");
});

testStrictly("HTTP: refuses a large body of many frames, which its sender would have split", async () => {
  await using listener = httpListener({ maxFrameBytes: 8 * 2 ** 20 });
  const edge = await openSession(listener);
  const post = request("POST", { "edgetuner-seq": "0" }, new Uint8Array(4 * 2 ** 20));
  assertEquals(await statusOf(listener.handle(post)), 400);
  await edge.close();
});

testStrictly("HTTP: ends a channel whose peer fell silent", async () => {
  await using listener = httpListener({ pollTimeoutMs: 10, idleTimeoutMs: 50 });
  const edge = await openSession(listener);
  assertEquals(await statusOf(listener.handle(request("GET", { "edgetuner-ack": "0" }))), 204);
  const info = await within(edge.closed, "closed");
  assertEquals(info, { clean: false, reason: "The peer was silent for 50 ms" });
  assertEquals(await statusOf(listener.handle(request("GET", { "edgetuner-ack": "0" }))), 404);
});

testStrictly("HTTP: a quiet channel stays open [slow]", async () => {
  await using listener = httpListener({ pollTimeoutMs: 20, idleTimeoutMs: 800 });
  await using server = serve((request) => listener.handle(request));
  await using device = await httpTransport({ url: address(server) }).connect();
  await using edge = await within(listener.accept(), "accept");
  assertEquals(await isPending(edge!.closed, 1200), true);
  await within(edge!.send(pattern(3)), "send");
  assertEquals(await within(device.receive(), "receive"), pattern(3));
});

testStrictly("HTTP: gives a channel up when the listener stays away", async () => {
  await using listener = httpListener({ pollTimeoutMs: 50 });
  let gone = false;
  await using server = serve((request) =>
    gone ? new Response("Gone", { status: 503 }) : listener.handle(request)
  );
  const device = await httpTransport({ url: address(server), retryTimeoutMs: 200 }).connect();
  gone = true;
  const info = await within(device.closed, "closed");
  assertEquals(info, { clean: false, reason: "the answer was HTTP 503: Gone" });
  assertEquals(await device.receive(), null);
});

testStrictly("HTTP: gives up on a listener that does not answer", async () => {
  const { promise: never, resolve: stop } = Promise.withResolvers<void>();
  const listener = httpListener();
  await using server = serve(async (request) => {
    if (!request.headers.has("edgetuner-open")) await never;
    return await listener.handle(request);
  });
  const url = address(server);
  const device = await httpTransport({ url, requestTimeoutMs: 50, retryTimeoutMs: 100 }).connect();
  assertEquals((await within(device.closed, "closed")).reason, "no answer within 50 ms");
  await listener[Symbol.asyncDispose]();
  stop();
});

testStrictly(
  "HTTP: asks to be answered in time, however long the listener would hold a request [slow]",
  async () => {
    await using listener = httpListener({ pollTimeoutMs: 50_000, idleTimeoutMs: 60_000 });
    await using server = serve((request) => listener.handle(request));
    const device = await httpTransport({ url: address(server), requestTimeoutMs: 800, retryTimeoutMs: 1 })
      .connect();
    await using edge = await within(listener.accept(), "accept");
    assertEquals(await isPending(device.closed, 1200), true);
    await edge!.send(pattern(3));
    assertEquals(await within(device.receive(), "receive"), pattern(3));
    await device.close();
  },
);

testStrictly("HTTP: a link that is cut without a word ends the channel at its limits", async () => {
  await using listener = httpListener({ pollTimeoutMs: 50, idleTimeoutMs: 200 });
  await using server = serve((request) => listener.handle(request));
  await using relay = new StoppingRelay(server.addr.port);
  const transport = httpTransport({ url: relay.url, requestTimeoutMs: 200, retryTimeoutMs: 300 });
  const [device, leaving] = [await transport.connect(), await transport.connect()];
  const edge = await within(listener.accept(), "accept");
  relay.stop();
  const began = performance.now();
  await within(leaving.close("", { signal: AbortSignal.abort() }), "close");
  assertQuick(performance.now() - began, 150);
  assertEquals(await within(device.closed, "closed"), { clean: false, reason: "no answer within 200 ms" });
  assertEquals((await within(edge!.closed, "closed")).clean, false);
  assertQuick(performance.now() - began, 1500);
});

testStrictly("HTTP: tells that a token is wrong or missing, on each request", async () => {
  const sessions = new Set<string | null>();
  await using listener = httpListener({ authorize: requireToken("secret") });
  await using server = serve((request) => {
    sessions.add(request.headers.get(SESSION));
    return listener.handle(request);
  });
  const url = address(server);
  await assertRejects(
    () => httpTransport({ url, token: "other" }).connect(),
    HandshakeError,
    "the token was refused",
  );
  await assertRejects(() => httpTransport({ url }).connect(), HandshakeError, "a token is required");
  sessions.clear();
  await using device = await httpTransport({ url, token: "secret" }).connect();
  await using edge = await within(listener.accept(), "accept");
  assert(device && edge);
  const [id] = sessions;
  assertMatch(id ?? "", /^[\w-]{43}$/);
  assertEquals(await statusOf(fetch(url, { headers: { [SESSION]: id ?? "", "edgetuner-ack": "0" } })), 401);
});

testStrictly("HTTP: uses the smaller frame limit and a limited number of channels", async () => {
  await using listener = httpListener({ maxFrameBytes: 10, maxChannels: 1 });
  await using server = serve((request) => listener.handle(request, { peer: "tablet" }));
  const transport = httpTransport({ url: address(server) });
  await using device = await transport.connect();
  await using edge = await within(listener.accept(), "accept");
  assertEquals(edge?.peer, "tablet");
  await assertRejects(() => device.send(new Uint8Array(11)), RangeError, "current size is 11");
  await assertRejects(() => transport.connect(), ChannelClosedError, "at most 1 may be open");
});

testStrictly("HTTP: connecting ends by its limit", async () => {
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = silent.accept();
  const url = `http://127.0.0.1:${silent.addr.port}/`;
  await assertRejects(
    () => httpTransport({ url, connectTimeoutMs: 50 }).connect(),
    ChannelClosedError,
    "no answer within 50 ms",
  );
  (await accepting).close();
});

testStrictly("httpListener() checks its options", () => {
  assertThrows(() => httpListener({ idleTimeoutMs: 1000, pollTimeoutMs: 1000 }), RangeError, "1000 and 1000");
  assertThrows(
    () => httpTransport({ url: "wss://edge/", queueBytes: 1.5 }),
    RangeError,
    "current value is 1.5",
  );
});
