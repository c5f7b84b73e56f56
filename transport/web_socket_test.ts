import { fileURLToPath } from "node:url";
import { ChannelClosedError, HandshakeError } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
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
  openFaultyWebSocket,
  openWebSocket,
  serve,
  StoppingRelay,
  type TestServer,
} from "./_fixtures_test.ts";
import { encodePacket, Kind, type Packet } from "./_packet.ts";
import { newSession, requireToken, subprotocols } from "./token.ts";
import { webSocketListener, webSocketTransport } from "./web_socket.ts";
import { until } from "../tests/support/until.ts";
import { dropSocket } from "./_drop_socket.ts";
import { assertQuick } from "../tests/support/quick.ts";

const SILENT_LINK = fileURLToPath(new URL("../tests/support/silent_link.ts", import.meta.url));

testTransport({ name: "WebSocket", open: openWebSocket });
testLinkFaults({ name: "WebSocket", open: openFaultyWebSocket });

/** Opens a socket that does not keep to the rules of the transport. */
async function rawSocket(server: TestServer): Promise<WebSocket> {
  const socket = new WebSocket(
    address(server),
    subprotocols(undefined, { session: newSession(), goesOn: false }),
  );
  socket.binaryType = "arraybuffer";
  await new Promise((resolve) => socket.addEventListener("open", resolve, { once: true }));
  return socket;
}

function closeOf(socket: WebSocket): Promise<CloseEvent> {
  const event = new Promise<CloseEvent>((resolve) =>
    socket.addEventListener("close", resolve, { once: true })
  );
  return within(event, "the close of the socket");
}

/** Checks that the listener ends the channel of a peer that breaks a rule, and tells it why. */
function testViolation(what: string, reason: string, misbehave: (socket: WebSocket) => void): void {
  testStrictly(`WebSocket: closes a peer that ${what}`, async () => {
    await using listener = webSocketListener({ maxFrameBytes: 1000, queueBytes: 2000 });
    await using server = serve((request) => listener.handle(request));
    const socket = await rawSocket(server);
    const edge = await within(listener.accept(), "accept");
    const closing = closeOf(socket);
    misbehave(socket);
    const event = await closing;
    assertStringIncludes(event.reason, reason);
    assert(event.code >= 4000);
    const info = await within(edge!.closed, "closed");
    assertEquals(info.clean, false);
    assertStringIncludes(info.reason, reason);
  });
}

/** A message of a session, as a peer that keeps to no rules sends it. */
function message(packet: Partial<Packet>): Uint8Array<ArrayBuffer> {
  const body = packet.body ?? new Uint8Array();
  return encodePacket({ kind: Kind.last, total: body.byteLength, seq: 0, ack: 0, grant: 0, ...packet, body });
}

testViolation("sends too large a frame", "must not exceed 1000 bytes: size is 1001", (socket) => {
  socket.send(message({ body: new Uint8Array(1001) }));
});
testViolation("announces too large a frame", "must not exceed 1000 bytes: size is 9999", (socket) => {
  socket.send(message({ kind: Kind.part, total: 9999, body: new Uint8Array(10) }));
});
testViolation("sends parts that do not add up", "must add up", (socket) => {
  socket.send(message({ kind: Kind.part, total: 10, body: new Uint8Array(11) }));
});
testViolation("sends parts of nothing", "must add up", (socket) => {
  socket.send(message({ kind: Kind.part, total: 10 }));
});
testViolation("sends text", "Cannot read a text message", (socket) => socket.send("hello"));
testViolation("sends what is no message", "Cannot read a message", (socket) => {
  socket.send(new Uint8Array([9, 9]));
});
testViolation("acknowledges what was never sent", "Cannot read a message", (socket) => {
  socket.send(message({ kind: Kind.status, ack: 7 }));
});
testViolation("sends more than it may", "More than 2000 bytes wait", (socket) => {
  for (let seq = 0; seq < 3; seq++) socket.send(message({ seq, body: new Uint8Array(1000) }));
});

testStrictly("WebSocket: many tiny frames fill the queue too", async () => {
  await using listener = webSocketListener({ queueBytes: 6400 });
  await using server = serve((request) => listener.handle(request));
  const socket = await rawSocket(server);
  const closing = closeOf(socket);
  for (let seq = 0; seq < 101; seq++) socket.send(message({ seq }));
  assertStringIncludes((await closing).reason, "More than 6400 bytes wait");
});

testStrictly("WebSocket: carries frames above the size of one message [slow]", async () => {
  await using listener = webSocketListener();
  await using server = serve((request) => listener.handle(request));
  await using device = await webSocketTransport({ url: address(server) }).connect();
  await using edge = await within(listener.accept(), "accept");
  const frame = new Uint8Array(40 * 2 ** 20);
  for (let i = 0; i < frame.length; i += 4096) frame[i] = i >>> 12;
  // The second waits until the first, which alone exceeds the queue, is taken.
  const sending = Promise.all([device.send(frame), device.send(new Uint8Array([1]))]);
  const arrived = await within(edge!.receive(), "receive");
  assert(arrived && arrived.byteLength === frame.byteLength && arrived.every((byte, i) => byte === frame[i]));
  assertEquals(await within(edge!.receive(), "receive"), new Uint8Array([1]));
  await within(sending, "sending");
});

for (const bytes of [8, 1000, 1600, 13_000, 60_000]) {
  testStrictly(`WebSocket: lets frames of ${bytes} bytes follow each other at once`, async () => {
    await using listener = webSocketListener();
    await using server = serve((request) => listener.handle(request));
    await using device = await webSocketTransport({ url: address(server) }).connect();
    await using edge = await within(listener.accept(), "accept");
    const rounds = 20;
    const times: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const start = performance.now();
      for (let k = 0; k < 3; k++) await device.send(new Uint8Array(bytes));
      for (let k = 0; k < 3; k++) await edge!.receive();
      await edge!.send(new Uint8Array(bytes));
      await device.receive();
      // A lone frame, too: nothing that follows takes an acknowledgement along.
      await device.send(new Uint8Array(bytes));
      await edge!.receive();
      times.push(performance.now() - start);
    }
    // Held back by the network stack, a round would take 40 ms; on a busy machine some do.
    assertQuick(times.sort((a, b) => a - b)[rounds / 2]!, 20, "a round");
  });
}

testStrictly("WebSocket: tells that a token is wrong or missing", async () => {
  await using listener = webSocketListener({ authorize: requireToken("secret") });
  await using server = serve((request) => listener.handle(request));
  const url = address(server);
  const answer = await fetch(url);
  await answer.body?.cancel();
  assertEquals(answer.status, 401);
  await assertRejects(
    () => webSocketTransport({ url, token: "other" }).connect(),
    HandshakeError,
    "the token was refused",
  );
  await assertRejects(() => webSocketTransport({ url }).connect(), HandshakeError, "a token is required");
  await using device = await webSocketTransport({ url, token: "secret" }).connect();
  await using edge = await within(listener.accept(), "accept");
  assert(device && edge);
});

testStrictly("WebSocket: answers requests that are no handshake", async () => {
  await using listener = webSocketListener();
  const upgrade = { upgrade: "websocket", connection: "upgrade" };
  assertEquals((await listener.handle(new Request("http://localhost/"))).status, 426);
  assertEquals((await listener.handle(new Request("http://localhost/", { headers: upgrade }))).status, 400);
  const keyless = { ...upgrade, "sec-websocket-protocol": "edgetuner.v2" };
  assertEquals((await listener.handle(new Request("http://localhost/", { headers: keyless }))).status, 400);
});

testStrictly("WebSocket: takes on a limited number of channels", async () => {
  await using listener = webSocketListener({ maxChannels: 1 });
  await using server = serve((request) => listener.handle(request, { peer: "tablet" }));
  const transport = webSocketTransport({ url: address(server) });
  const first = await transport.connect();
  const edge = await within(listener.accept(), "accept");
  assertEquals(edge?.peer, "tablet");
  await assertRejects(() => transport.connect(), ChannelClosedError, "no more channels");
  await first.close();
  await within(edge!.closed, "closed");
  await using second = await transport.connect();
  assert(second);
});

testStrictly("WebSocket: connecting to a silent server ends by its limit and by its signal", async () => {
  using silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of silent) accepted.push(connection);
  })();
  const url = `ws://127.0.0.1:${silent.addr.port}/`;
  const start = performance.now();
  await assertRejects(
    () => webSocketTransport({ url, connectTimeoutMs: 100 }).connect(),
    ChannelClosedError,
    "no answer within 100 ms",
  );
  assertQuick(performance.now() - start, 5000);
  const controller = new AbortController();
  const connecting = webSocketTransport({ url }).connect({ signal: controller.signal });
  setTimeout(() => controller.abort(new Error("changed my mind")), 20);
  await assertRejects(() => connecting, Error, "changed my mind");
  silent.close();
  await accepting;
  for (const connection of accepted) connection.close();
});

/** A connection is not made anew for long. */
const SHORT = { retryTimeoutMs: 100 };

testStrictly(
  "WebSocket: a lost connection that nobody makes anew ends the channel, not cleanly",
  async () => {
    await using listener = webSocketListener(SHORT);
    const server = serve((request) => listener.handle(request));
    const relay = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const connecting = webSocketTransport({ url: `ws://127.0.0.1:${relay.addr.port}/`, ...SHORT }).connect();
    const near = await relay.accept();
    const far = await Deno.connect({ hostname: "127.0.0.1", port: server.addr.port });
    const cut = new AbortController();
    const copies = Promise.allSettled([
      near.readable.pipeTo(far.writable, { signal: cut.signal }),
      far.readable.pipeTo(near.writable, { signal: cut.signal }),
    ]);
    const device = await connecting;
    const edge = await within(listener.accept(), "accept");
    relay.close();
    cut.abort();
    await copies;
    const infos = await within(Promise.all([device.closed, edge!.closed]), "closed");
    for (const { clean, reason } of infos) {
      assertEquals(clean, false);
      assert(reason.length > 0);
    }
    await server.shutdown();
  },
);

testStrictly(
  "WebSocket: a session is its owner's, and one without a connection ends in its time",
  async () => {
    await using listener = webSocketListener({ maxChannels: 1, retryTimeoutMs: 400 });
    await using server = serve((request) => listener.handle(request));
    const raw = async (session: string, goesOn: boolean) => {
      const socket = new WebSocket(address(server), subprotocols(undefined, { session, goesOn }));
      socket.binaryType = "arraybuffer";
      const closed = new Promise<CloseEvent>((resolve) => socket.addEventListener("close", resolve));
      const open = new Promise((resolve) => socket.addEventListener("open", resolve));
      await within(open, "open");
      return { socket, closed };
    };
    const session = newSession();
    const owner = await raw(session, false);
    const edge = (await within(listener.accept(), "accept"))!;
    // Who does not know the name gets nothing, and takes no place.
    const stranger = await raw(newSession(), true);
    assertEquals((await within(stranger.closed, "close")).code, 4004);
    // The owner goes on, over another connection too; what the edge sends meanwhile is kept for it.
    owner.socket.send(message({ kind: Kind.status, grant: 1000 }));
    await edge.send(pattern(10));
    const again = await raw(session, true);
    assertEquals((await within(owner.closed, "close")).code, 4005);
    const messages: Uint8Array[] = [];
    again.socket.addEventListener("message", ({ data }) => {
      if (data instanceof ArrayBuffer) messages.push(new Uint8Array(data));
    });
    again.socket.send(message({ kind: Kind.status }));
    await until(() => messages.some((m) => m[0] === Kind.last), "the frame");
    assertEquals(messages.find((m) => m[0] === Kind.last)!.subarray(32), pattern(10));
    dropSocket(again.socket);
    await within(again.closed, "close");
    const began = performance.now();
    // It keeps its place until its time is over, and no longer.
    await assertRejects(
      () => webSocketTransport({ url: address(server) }).connect(),
      ChannelClosedError,
      "no more channels",
    );
    assertEquals((await within(edge.closed, "closed")).clean, false);
    assertQuick(performance.now() - began, 1500);
    await edge.receive();
    const late = await raw(session, true);
    assertEquals((await within(late.closed, "close")).code, 4004);
    await using device = await webSocketTransport({ url: address(server) }).connect();
    assert(device);
  },
);

testStrictly(
  "WebSocket: a peer whose program was killed is gone long before one whose link is silent",
  async () => {
    await using listener = webSocketListener({ retryTimeoutMs: 60_000, goneTimeoutMs: 200 });
    await using server = serve((request) => listener.handle(request));
    const offer = { session: newSession(), goesOn: false };
    const socket = new WebSocket(address(server), subprotocols(undefined, offer));
    const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
    const open = new Promise((resolve) => socket.addEventListener("open", resolve));
    const edge = (await within(listener.accept(), "accept"))!;
    await within(open, "open");
    // What a system does with the sockets of a program that is killed.
    dropSocket(socket);
    await within(closed, "close");
    const { clean, reason } = await within(edge.closed, "closed");
    assertEquals(clean, false);
    assert(reason.length > 0);
  },
);

testStrictly("WebSocket: a link that is cut without a word ends both channels at their limit", async () => {
  await using listener = webSocketListener({ idleTimeoutMs: 400, ...SHORT });
  await using server = serve((request) => listener.handle(request));
  await using relay = new StoppingRelay(server.addr.port);
  const device = await webSocketTransport({ url: relay.url, idleTimeoutMs: 200, ...SHORT }).connect();
  const edge = await within(listener.accept(), "accept");
  assertEquals(await isPending(Promise.race([device.closed, edge!.closed]), 600), true, "quiet, not silent");
  relay.stop();
  const began = performance.now();
  const infos: readonly unknown[] = await within(Promise.all([device.closed, edge!.closed]), "closed");
  const silence = (ms: number) => ({ clean: false, reason: `The peer was silent for ${ms} ms` });
  assertEquals(infos, [silence(200), silence(400)]);
  assertQuick(performance.now() - began, 1000);
});

for (const busy of [false, true]) {
  testStrictly(
    `WebSocket: a cut link does not hold the process of a program that is done, ${busy ? "busy" : "idle"}`,
    async () => {
      // Longer than the test: only the device's own limit counts.
      await using listener = webSocketListener({ idleTimeoutMs: 60_000 });
      await using server = serve((request) => listener.handle(request));
      await using relay = new StoppingRelay(server.addr.port, { reads: !busy });
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--quiet", SILENT_LINK, relay.url, ...(busy ? ["busy"] : [])],
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const limit = setTimeout(() => child.kill("SIGKILL"), 20_000);
      let [said, saidAt] = ["", 0];
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
        [said, saidAt] = [said + text, performance.now()];
        if (said === "connected\n") relay.stop();
      }
      const { code } = await child.status;
      clearTimeout(limit);
      assertEquals([code, said], [0, "connected\nThe peer was silent for 200 ms\n"]);
      assertQuick(performance.now() - saidAt, 1000);
    },
  );
}

testStrictly("WebSocket: a side hears of the other's limit and keeps within it", async () => {
  await using listener = webSocketListener({ idleTimeoutMs: 150 });
  await using server = serve((request) => listener.handle(request));
  const url = address(server);
  await using device = await webSocketTransport({ url, pingIntervalMs: 60_000, idleTimeoutMs: 200_000 })
    .connect();
  await using edge = await within(listener.accept(), "accept");
  assertEquals(await isPending(edge!.closed, 600), true);
  await edge!.send(pattern(3));
  assertEquals(await within(device.receive(), "receive"), pattern(3));
});

testStrictly("WebSocket: closing waits for a peer that is gone as long as it is told to", async () => {
  await using listener = webSocketListener();
  await using server = serve((request) => listener.handle(request));
  await using relay = new StoppingRelay(server.addr.port);
  const transport = webSocketTransport({ url: relay.url, closeTimeoutMs: 60_000 });
  const [first, second] = [await transport.connect(), await transport.connect()];
  relay.stop();
  const began = performance.now();
  await within(first.close("", { signal: AbortSignal.abort() }), "close");
  const cut = new AbortController();
  const closing = second.close("", { signal: cut.signal });
  assertEquals(await isPending(closing, 50), true);
  cut.abort();
  await within(closing, "close");
  assertQuick(performance.now() - began, 1000);
});

testStrictly("WebSocket: a long reason is cut where a character ends", async () => {
  await using fixture = await openWebSocket();
  const device = await fixture.transport.connect();
  const edge = await within(fixture.listener.accept(), "accept");
  await device.close("\u00e9".repeat(100));
  assertEquals((await within(edge!.closed, "closed")).reason, "\u00e9".repeat(61));
});

testStrictly("webSocketTransport() checks its options", () => {
  assertThrows(() => webSocketTransport({ url: "edge" }), SyntaxError, '"edge"');
  assertThrows(() => webSocketTransport({ url: "ftp://edge/" }), TypeError, '"ftp"');
  const url = "https://edge.example/";
  assertThrows(() => webSocketTransport({ url, token: "a b" }), TypeError, "current length is 3");
  assertThrows(() => webSocketTransport({ url, maxFrameBytes: 0 }), RangeError, "current value is 0");
  assertThrows(
    () => webSocketTransport({ url, connectTimeoutMs: 2 ** 31 }),
    RangeError,
    "'connectTimeoutMs'",
  );
  assertThrows(() => webSocketListener({ idleTimeoutMs: -1 }), RangeError, "'idleTimeoutMs'");
  const limits = { idleTimeoutMs: 1000, pingIntervalMs: 501 };
  assertThrows(() => webSocketTransport({ url, ...limits }), RangeError, "1000 and 501");
});
