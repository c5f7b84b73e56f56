import type { Channel } from "@edgetuner/core/contracts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { pattern, testStrictly, testTransport, within } from "../../tests/conformance/transport_suite.ts";
import { openHttp, openInProcess, openProxiedHttp, openWebSocket, overLink } from "../_fixtures_test.ts";
import { inProcessTransport } from "../in_process.ts";
import { emulateLink, emulateLinkChannel, type LinkOptions } from "./link.ts";
import { assertQuick } from "../../tests/support/quick.ts";

/** A link is the same over each of them: while one works at it, one in process is enough. */
const SLOW = " [slow]";

testTransport({ name: "link in process", open: () => overLink(openInProcess()) });
testTransport({ name: "link over WebSocket", mark: SLOW, open: () => overLink(openWebSocket()) });
testTransport({ name: "link over HTTP", mark: SLOW, open: () => overLink(openHttp()) });
testTransport({
  name: "link over HTTP through a proxy",
  mark: SLOW,
  open: () => overLink(openProxiedHttp()),
});

/** Sends frames over a link and returns the time in milliseconds until the last one has arrived. */
async function timeTransfer(
  link: LinkOptions,
  sizes: readonly number[],
  fromEdge = false,
): Promise<number> {
  const { transport, listener } = inProcessTransport();
  await using device = emulateLinkChannel(await transport.connect(), link);
  await using edge = await listener.accept();
  assert(edge);
  const [from, to]: [Channel, Channel] = fromEdge ? [edge, device] : [device, edge];
  const start = performance.now();
  const receiving = (async () => {
    for (const size of sizes) assertEquals((await within(to.receive(), "receive"))?.byteLength, size);
    return performance.now() - start;
  })();
  for (const size of sizes) await within(from.send(new Uint8Array(size)), "send");
  return await receiving;
}

/** Checks a time, which is too long now and then on a busy machine but never too short. */
async function assertTime(expectedMs: number, measure: () => Promise<number>): Promise<void> {
  const times: number[] = [];
  for (let attempt = 0; attempt < 5; attempt++) {
    const ms = await measure();
    assert(ms > expectedMs * 0.97, `${ms} ms instead of ${expectedMs} ms`);
    if (ms < expectedMs * 1.1) return;
    times.push(ms);
  }
  assertQuick(Math.min(...times), expectedMs * 1.1, `one of ${times.length} of ${expectedMs} ms each`);
}

const MEGABYTE_LINK = { bandwidthBytesPerSecond: 1e6, latencyMs: 20 };

for (const fromEdge of [false, true]) {
  const to = fromEdge ? "to the device" : "to the edge";
  testStrictly(`link: one large frame takes its time ${to}`, async () => {
    await assertTime(120, () => timeTransfer(MEGABYTE_LINK, [100_000], fromEdge));
  });

  testStrictly(`link: many frames are under way side by side ${to}`, async () => {
    await assertTime(120, () => timeTransfer(MEGABYTE_LINK, Array(100).fill(1000), fromEdge));
  });
}

testStrictly("link: latency counts once, however many frames", async () => {
  const link = { bandwidthBytesPerSecond: 1e9, latencyMs: 60 };
  await assertTime(60, () => timeTransfer(link, Array(200).fill(10)));
});

testStrictly("link: directions do not share bandwidth", async () => {
  await assertTime(120, async () => {
    const { transport, listener } = inProcessTransport();
    await using device = emulateLinkChannel(await transport.connect(), MEGABYTE_LINK);
    await using edge = await listener.accept();
    const start = performance.now();
    await Promise.all([device.send(new Uint8Array(1e5)), edge!.send(new Uint8Array(1e5))]);
    await within(Promise.all([device.receive(), edge!.receive()]), "receive");
    return performance.now() - start;
  });
});

testStrictly("link: connecting takes a round trip", async () => {
  const { transport } = inProcessTransport();
  await assertTime(50, async () => {
    const start = performance.now();
    await using channel = await emulateLink(transport, { bandwidthBytesPerSecond: 1e6, latencyMs: 25 })
      .connect();
    assert(channel);
    return performance.now() - start;
  });
});

testStrictly("link: jitter keeps the order and the frames", async () => {
  const { transport, listener } = inProcessTransport();
  const link = { bandwidthBytesPerSecond: 1e7, latencyMs: 1, jitterMs: 10 };
  await using device = await emulateLink(transport, link, { seed: 5 }).connect();
  await using edge = await listener.accept();
  for (let i = 0; i < 50; i++) await device.send(pattern(i, i));
  for (let i = 0; i < 50; i++) assertEquals(await within(edge!.receive(), "receive"), pattern(i, i));
});

testStrictly("link: a frame that the channel below refuses ends the channel", async () => {
  const { transport, listener } = inProcessTransport({ maxFrameBytes: 10 });
  await using device = emulateLinkChannel(await transport.connect(), MEGABYTE_LINK);
  await using edge = await listener.accept();
  await device.send(new Uint8Array(11));
  const { reason } = await within(device.closed, "closed");
  assertEquals(reason, "Cannot send a frame as it must not exceed 10 bytes: current size is 11");
  assertEquals(await within(edge!.receive(), "receive"), null);
});

testStrictly(
  "link: what is not wanted is refused by the channel below too, before it takes memory",
  async () => {
    const { transport, listener } = inProcessTransport();
    const below = await transport.connect();
    const limits: number[] = [];
    below.limitReceived = (bytes) => void limits.push(bytes);
    await using device = emulateLinkChannel(below, MEGABYTE_LINK);
    await using _edge = await listener.accept();
    device.limitReceived?.(10);
    device.limitReceived?.(Infinity);
    assertEquals(limits, [10, Infinity]);
  },
);

testStrictly("emulateLink() checks its options", () => {
  const { transport } = inProcessTransport();
  const check = (options: LinkOptions, text: string) =>
    assertThrows(() => emulateLink(transport, options), RangeError, text);
  check({ bandwidthBytesPerSecond: 0, latencyMs: 0 }, "'bandwidthBytesPerSecond'");
  check({ bandwidthBytesPerSecond: 1, latencyMs: -1 }, "current value is -1");
  check({ bandwidthBytesPerSecond: 1, latencyMs: 0, jitterMs: NaN }, "current value is NaN");
});
