import { ChannelClosedError, HandshakeError } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { pattern, testStrictly, testTransport, within } from "../../tests/conformance/transport_suite.ts";
import { FAULT_LIMITS, testLinkFaults } from "../../tests/conformance/link_faults_suite.ts";
import { FaultyRelay } from "../../tests/support/faulty_relay.ts";
import { NatsServer, type NatsServerOptions } from "../../tests/support/nats_server.ts";
import { LIMITS, type TransportFixture } from "../_fixtures_test.ts";
import { requireToken } from "../token.ts";
import { natsAddress } from "./_options.ts";
import { natsListener, natsTransport } from "./nats.ts";

async function open(options: NatsServerOptions = {}): Promise<TransportFixture> {
  const server = await NatsServer.start(options);
  const url = server.url("conformance");
  const listener = await natsListener({ url, ...LIMITS });
  return {
    transport: natsTransport({ url, ...LIMITS }),
    listener,
    unreachable: natsTransport({ url: server.url("another") }),
    async [Symbol.asyncDispose]() {
      await listener[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

testTransport({ name: "NATS", mark: " [slow]", open: () => open() });

testLinkFaults({
  name: "NATS",
  // The client waits up to half a second before it connects anew.
  cutFrames: 4,
  leavesTimers: true,
  async open() {
    const server = await NatsServer.start();
    const relay = new FaultyRelay(server.port);
    const limits = { ...LIMITS, ...FAULT_LIMITS };
    const listener = await natsListener({ url: server.url("faults"), ...limits });
    return {
      transport: natsTransport({ url: `nats+ws://127.0.0.1:${relay.port}/faults`, ...limits }),
      listener,
      relay,
      async [Symbol.asyncDispose]() {
        await listener[Symbol.asyncDispose]();
        await relay[Symbol.asyncDispose]();
        await server[Symbol.asyncDispose]();
      },
    };
  },
});

Deno.test({
  name:
    "NATS: the edge server's way to the broker may be dead without a word: it makes another one, and frames go on [slow]",
  // The client of the broker leaves timers of attempts to connect behind.
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using server = await NatsServer.start();
    await using relay = new FaultyRelay(server.port);
    const limits = { ...LIMITS, ...FAULT_LIMITS, idleTimeoutMs: 1000 };
    const listener = await natsListener({ url: `nats+ws://127.0.0.1:${relay.port}/dead`, ...limits });
    const device = await natsTransport({ url: server.url("dead"), ...limits }).connect();
    const edge = (await within(listener.accept(), "accept"))!;
    for (const direction of ["up", "down"] as const) {
      relay.stall(direction);
      await Promise.all([device.send(pattern(5000, 1)), edge.send(pattern(7000, 2))]);
      assertEquals(await within(edge.receive(), "up"), pattern(5000, 1));
      assertEquals(await within(device.receive(), "down"), pattern(7000, 2));
    }
    await Promise.all([device.close(), edge.close()]);
    await listener[Symbol.asyncDispose]();
  },
});

testStrictly("NATS: frames are cut to what the broker takes [slow]", async () => {
  await using fixture = await open({ maxPayload: 4096 });
  await using device = await fixture.transport.connect();
  await using edge = await fixture.listener.accept();
  await within(device.send(pattern(100_000)), "send");
  assertEquals(await within(edge!.receive(), "receive"), pattern(100_000));
});

testStrictly(
  "NATS: a broker that is killed and comes back costs no frame, and gives none twice [slow]",
  async () => {
    let server = await NatsServer.start();
    const { port } = server;
    const url = server.url("a-run");
    const listener = await natsListener({ url, ...LIMITS });
    const device = await natsTransport({ url, ...LIMITS }).connect();
    const edge = await listener.accept();
    const frames = 60;
    const send = async () => {
      for (let i = 0; i < frames; i++) {
        // In mid-run, with frames under way.
        if (i === 20) {
          await server[Symbol.asyncDispose]();
          server = await NatsServer.start({ port });
        }
        await device.send(pattern(50_000, i));
      }
    };
    const receive = async () => {
      for (let i = 0; i < frames; i++) {
        assertEquals(
          (await edge!.receive())?.[0],
          pattern(1, i)[0],
          `frame ${i}`,
        );
      }
    };
    await within(Promise.all([send(), receive()]), "all frames", 20_000);
    await within(Promise.all([device.close(), edge!.close()]), "close");
    assertEquals((await device.closed).clean, true);
    await listener[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  },
);

const loosely = { sanitizeOps: false, sanitizeResources: false };

// The client leaves the timer of an attempt that was dropped behind.
Deno.test("NATS: a peer that is gone is noticed by its silence [slow]", loosely, async () => {
  await using server = await NatsServer.start();
  const url = server.url("a-run");
  const limits = { pingIntervalMs: 50, idleTimeoutMs: 400, retryTimeoutMs: 300 };
  await using listener = await natsListener({ url, ...limits });
  const device = await natsTransport({ url, ...limits }).connect();
  const edge = await listener.accept();
  const start = performance.now();
  server.signal("SIGSTOP");
  const ends = await within(Promise.all([device.closed, edge!.closed]), "closed");
  for (const { clean, reason } of ends) {
    assertEquals([clean, reason], [false, "The peer was silent for 400 ms"]);
  }
  assert(performance.now() - start < 5000);
  server.signal("SIGCONT");
});

testStrictly("NATS: runs share a broker, and a run has one edge server and a token [slow]", async () => {
  await using server = await NatsServer.start();
  const url = (run: string) => server.url(run);
  await using one = await natsListener({ url: url("one"), authorize: requireToken("first-secret") });
  await using two = await natsListener({ url: url("two"), authorize: requireToken("second-secret") });
  await assertRejects(() => natsListener({ url: url("one") }), HandshakeError, "another edge server");
  await assertRejects(
    () => natsTransport({ url: url("one") }).connect(),
    HandshakeError,
    "a token is required",
  );
  await assertRejects(
    () => natsTransport({ url: url("one"), token: "second-secret" }).connect(),
    HandshakeError,
    "the token was refused",
  );
  await using first = await natsTransport({ url: url("one"), token: "first-secret" }).connect();
  await using second = await natsTransport({ url: url("two"), token: "second-secret" }).connect();
  await first.send(pattern(1, 1));
  await second.send(pattern(1, 2));
  await using edges = { one: await one.accept(), two: await two.accept(), async [Symbol.asyncDispose]() {} };
  assertEquals(await edges.one!.receive(), pattern(1, 1));
  assertEquals(await edges.two!.receive(), pattern(1, 2));
});

testStrictly("NATS: the broker's credentials are shown to it and to nobody else [slow]", async () => {
  await using server = await NatsServer.start({ more: `authorization { user: ann, password: "s3cr et" }` });
  const good = server.url("a-run", "ann:s3cr%20et@");
  await using listener = await natsListener({ url: good });
  await using _device = await natsTransport({ url: good }).connect();
  await using _edge = await listener.accept();
  const wrong = await natsTransport({ url: server.url("a-run", "ann:wr0ng-one@") }).connect().catch((e) => e);
  assert(wrong instanceof HandshakeError, String(wrong));
  assertEquals(wrong.message.includes("wr0ng-one"), false);
  const credentials = { user: "ann", password: "s3cr et" };
  await using _other = await natsTransport({ url: server.url("a-run"), credentials }).connect();
});

testStrictly("NATS: an address that is none is refused, without its password", () => {
  const error = assertThrows(() => natsAddress("ws://ann:hush@broker/run"), SyntaxError);
  assertEquals(error.message.includes("hush"), false);
  assertThrows(() => natsAddress("nats+ws://broker/a/b"), SyntaxError, "the run in it");
  assertThrows(() => natsTransport({ url: "nats+ws://broker" }), SyntaxError, "must name a run");
});

testStrictly("NATS: a broker that is not there is said to be so", async () => {
  const url = "nats+ws://127.0.0.1:1/run";
  await assertRejects(() => natsTransport({ url }).connect(), ChannelClosedError, "127.0.0.1:1");
});
