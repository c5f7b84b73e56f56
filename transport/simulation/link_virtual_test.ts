import { type Channel, ChannelClosedError } from "@edgetuner/core/contracts";
import { expectedResends, LINK_PROFILES, type LinkProfile, readLinkProfile } from "@edgetuner/transport";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { pattern, testStrictly, within } from "../../tests/conformance/transport_suite.ts";
import { drawCount, makeRandom } from "./_random.ts";
import { type Clock, realClock, until, virtualClock } from "./clock.ts";
import { inProcessTransport } from "../in_process.ts";
import { emulateLink, emulateLinkChannel, type EmulationOptions, LinkMedium } from "./link.ts";
import { assertQuick } from "../../tests/support/quick.ts";

const LINK: LinkProfile = {
  name: "test",
  up: { bandwidthMbit: 8, latencyMs: 20 }, // 1000 bytes a millisecond
  down: { bandwidthMbit: 80, latencyMs: 5 },
};

/** Both ends of a channel over an emulated link. */
async function open(link: LinkProfile, options: EmulationOptions): Promise<[device: Channel, edge: Channel]> {
  const { transport, listener } = inProcessTransport();
  const device = emulateLinkChannel(await transport.connect(), link, options);
  return [device, (await listener.accept())!];
}

/** Times at which frames that are sent one after the other arrive. */
async function arrivals(
  link: LinkProfile,
  sizes: readonly number[],
  { up = true, ...options }: { up?: boolean } & EmulationOptions = {},
): Promise<number[]> {
  using clock = virtualClock();
  const [device, edge] = await open(link, { clock, ...options });
  const [from, to] = up ? [device, edge] : [edge, device];
  const times: number[] = [];
  const receiving = (async () => {
    for (const size of sizes) {
      assertEquals((await to.receive())?.byteLength, size);
      times.push(clock.now());
    }
  })();
  for (const size of sizes) await from.send(new Uint8Array(size));
  await within(receiving, "receive");
  await device.close();
  await edge.close();
  return times;
}

const close = (a: number, b: number) => assert(Math.abs(a - b) < 1e-9 * Math.max(1, b), `${a} and ${b}`);

testStrictly("link in virtual time: bandwidth, latency and direction to the last digit", async () => {
  const [one, two, three] = await arrivals(LINK, [10_000, 500, 2000]);
  [close(one!, 30), close(two!, 30.5), close(three!, 32.5)];
  const [down] = await arrivals(LINK, [10_000], { up: false });
  close(down!, 6);
});

testStrictly("link in virtual time: a short queue does not cost bandwidth", async () => {
  for (const up of [true, false]) {
    const times = await arrivals(LINK, Array(50).fill(2000), { up, queueBytes: 5000 });
    // 2 or 0.2 ms a frame, and the latency once.
    times.forEach((time, i) => close(time, up ? 20 + 2 * (i + 1) : 5 + 0.2 * (i + 1)));
  }
});

testStrictly("link in virtual time: an hour passes at once", async () => {
  const start = performance.now();
  const slow = { ...LINK, up: { bandwidthMbit: 0.008, latencyMs: 0 } }; // a byte a millisecond
  const [time] = await arrivals(slow, [3_600_000]);
  close(time!, 3_600_000);
  assertQuick(performance.now() - start, 2000);
});

testStrictly("link in virtual time: the edge server's end may be the emulated one", async () => {
  using clock = virtualClock();
  const { transport, listener } = inProcessTransport();
  const device = await transport.connect();
  const edge = emulateLinkChannel((await listener.accept())!, LINK, { clock, side: "edge" });
  await edge.send(new Uint8Array(10_000));
  await device.receive();
  close(clock.now(), 6);
  await device.send(new Uint8Array(10_000));
  await edge.receive();
  close(clock.now(), 36);
  await device.close();
  await edge.close();
});

testStrictly(
  "link: a shared one carries one frame after the other, of all devices and both ways",
  async () => {
    using clock = virtualClock();
    const medium = new LinkMedium();
    const shared = { ...LINK, shared: true };
    const [a, edgeOfA] = await open(shared, { clock, medium });
    const [b, edgeOfB] = await open(shared, { clock, medium });
    await a.send(new Uint8Array(10_000)); // 10 ms up
    await edgeOfA.send(new Uint8Array(10_000)); // 1 ms down, after it
    await b.send(new Uint8Array(4000)); // 4 ms up, after both
    const seen: [string, number][] = [];
    const hear = async (name: string, channel: Channel) => {
      await channel.receive();
      seen.push([name, Math.round(clock.now())]);
    };
    await within(Promise.all([hear("up", edgeOfA), hear("down", a), hear("other", edgeOfB)]), "receive");
    assertEquals(seen, [["down", 20], ["up", 30], ["other", 34]]);
    for (const channel of [a, edgeOfA, b, edgeOfB]) await channel.close();
  },
);

testStrictly("link: the same seed gives the same jitter and losses, another one others", async () => {
  const rough = { ...LINK, up: { ...LINK.up, jitterMs: 30, loss: 0.1 } };
  const sizes = Array.from({ length: 40 }, (_, i) => 100 * i);
  const first = await arrivals(rough, sizes, { seed: 7 });
  assertEquals(await arrivals(rough, sizes, { seed: 7 }), first);
  assert((await arrivals(rough, sizes, { seed: 8 })).join() !== first.join());
  assert(first.every((t, i) => i === 0 || t >= first[i - 1]!), "frames keep their order");
});

testStrictly("link: lost parts take bandwidth again and delay by the resend timeout", async () => {
  const loss = 0.2;
  const lossy = { ...LINK, mtuBytes: 1000, resendMs: 100_000, up: { ...LINK.up, loss } };
  const frames = 400;
  const sums = { extraMs: 0, resends: 0 };
  for (let seed = 1; seed <= frames; seed++) {
    const [time] = await arrivals(lossy, [8000], { seed });
    // 8 ms of bandwidth and 20 ms of latency; all beyond whole timeouts is what was sent again.
    const beyond = time! - 28;
    const resends = Math.floor((beyond + 1e-6) / 100_000);
    sums.resends += resends;
    sums.extraMs += beyond - resends * 100_000;
  }
  const expected = { extraMs: 8 * loss / (1 - loss), resends: expectedResends(8, loss) };
  for (const name of ["extraMs", "resends"] as const) {
    const mean = sums[name] / frames;
    // Four standard errors of either mean, with a deviation of about its square root.
    const margin = 4 * Math.sqrt(expected[name] * 1.3 / frames);
    assert(Math.abs(mean - expected[name]) < margin, `${name}: ${mean} instead of ${expected[name]}`);
  }
});

Deno.test("drawCount() has the mean and the limits of a binomial number", () => {
  const random = makeRandom(3);
  for (const [count, p] of [[10, 0.5], [1000, 0.01], [5, 0.9], [46_000, 1e-4]] as const) {
    const draws = Array.from({ length: 3000 }, () => drawCount(count, p, random));
    assert(draws.every((n) => n >= 0 && n <= count));
    const mean = draws.reduce((a, b) => a + b, 0) / draws.length;
    const margin = 4 * Math.sqrt(count * p * (1 - p) / draws.length);
    assert(Math.abs(mean - count * p) < margin, `${mean} instead of ${count * p}`);
  }
  assertEquals(drawCount(1000, 0, random), 0);
});

const GONE: LinkProfile = { ...LINK, failures: [{ goneMs: 50, backMs: 200 }] };

testStrictly("link: when it is cut both ends are told why, and what is under way is lost", async () => {
  using clock = virtualClock();
  const [device, edge] = await open(GONE, { clock });
  await device.send(new Uint8Array(10_000)); // arrives at 30
  await device.send(new Uint8Array(30_000)); // would arrive at 60
  assertEquals((await within(edge.receive(), "receive"))?.byteLength, 10_000);
  assertEquals(await within(edge.receive(), "receive"), null);
  assertEquals(clock.now(), 50);
  for (const end of [device, edge]) {
    assertEquals((await within(end.closed, "closed")).reason, "the emulated link was cut at 50 ms");
    await assertRejects(() => end.send(new Uint8Array(1)), ChannelClosedError, "cut at 50 ms");
  }
  assertEquals((await device.closed).clean, false);
});

testStrictly("link: connecting fails while it is gone and works when it is back", async () => {
  using clock = virtualClock();
  const { transport, listener } = inProcessTransport();
  const linked = emulateLink(transport, GONE, { clock });
  await until(clock, 40); // connecting takes 25 ms: the cut comes in between
  await assertRejects(() => linked.connect(), ChannelClosedError, "it is cut");
  await until(clock, 150);
  await assertRejects(() => linked.connect(), ChannelClosedError, "it is cut");
  await until(clock, 200);
  await using device = await linked.connect();
  // The first one was opened before the cut came, and closed again.
  assertEquals(await (await listener.accept())!.receive(), null);
  await using edge = await listener.accept();
  await device.send(pattern(5, 1));
  assertEquals(await within(edge!.receive(), "receive"), pattern(5, 1));
});

testStrictly("link: a failure may concern one device, at a time that the seed draws", async () => {
  const link: LinkProfile = { ...LINK, failures: [{ device: 1, goneMs: [100, 200] }] };
  const cutAt = async (device: number, seed: number) => {
    using clock = virtualClock();
    const [near, far] = await open(link, { clock, device, seed });
    const cut = near.closed.then(() => clock.now());
    await until(clock, 300);
    await near.close();
    await far.close();
    return await cut;
  };
  assertEquals(await cutAt(0, 1), 300);
  const times = [await cutAt(1, 1), await cutAt(1, 2), await cutAt(1, 1)];
  assert(times.every((t) => t >= 100 && t < 200));
  assertEquals(times[0], times[2]);
  assert(times[0] !== times[1]);
});

testStrictly("link: in real time a slow device answers late", async () => {
  const link: LinkProfile = {
    name: "slow",
    up: { bandwidthMbit: 1000, latencyMs: 0 },
    down: { bandwidthMbit: 1000, latencyMs: 0 },
    failures: [{ slow: { factor: 4, fromMs: 0 } }],
  };
  const clock: Clock = realClock();
  const [device, edge] = await open(link, { clock });
  await edge.send(new Uint8Array(1));
  await device.receive();
  const start = clock.now();
  await until(clock, start + 20);
  const worked = clock.now() - start;
  await device.send(new Uint8Array(1));
  await edge.receive();
  const took = clock.now() - start;
  assert(took > 4 * worked - 1 && took < 4 * worked + 500, `${took} ms for ${worked} ms of work`);
  await device.close();
  await edge.close();
});

Deno.test("readLinkProfile() takes names and what JSON holds, and nothing else", () => {
  for (const profile of Object.values(LINK_PROFILES)) {
    assertEquals(readLinkProfile(JSON.parse(JSON.stringify(profile))), profile);
    assertEquals(readLinkProfile(profile.name), profile);
  }
  assertEquals(readLinkProfile(GONE), GONE);
  const refuse = (json: unknown, kind: typeof TypeError | typeof RangeError, text: string) =>
    assertThrows(() => readLinkProfile(json), kind, text);
  refuse("wifi-9", TypeError, 'must be one of lan-1g, wifi-5, lte, dsl: current value is "wifi-9"');
  refuse(null, TypeError, "must be an object: current value is null");
  refuse({ ...LINK, name: "" }, TypeError, "name must be a text");
  refuse({ ...LINK, up: undefined }, TypeError, "up must be an object");
  refuse({ ...LINK, speed: 3 }, TypeError, 'current value is "speed"');
  refuse({ ...LINK, up: { latencyMs: 1 } }, TypeError, "up.bandwidthMbit must be a number");
  refuse({ ...LINK, up: { ...LINK.up, bandwidthMbit: 0 } }, RangeError, "up.bandwidthMbit must be from");
  refuse({ ...LINK, down: { ...LINK.down, loss: 1 } }, RangeError, "down.loss must be from 0 to 0.9");
  refuse({ ...LINK, failures: {} }, TypeError, "failures must be a list");
  refuse(
    { ...LINK, failures: [{}] },
    TypeError,
    "failures[0] must be a failure with slow, weak, goneMs or serverGoneMs",
  );
  refuse({ ...LINK, failures: [{ backMs: 3 }] }, TypeError, "together with goneMs");
  refuse({ ...LINK, failures: [{ goneMs: [5, 3] }] }, RangeError, "goneMs must be from 5");
  refuse({ ...LINK, failures: [{ slow: { factor: 0.5, fromMs: 0 } }] }, RangeError, "slow.factor");
  for (
    const [toMs, fromMs] of [[5, 10], [10, 10], [[5, 20], 10], [15, [10, 20]]] as const
  ) {
    const failure = { slow: { factor: 2, fromMs, toMs } };
    refuse({ ...LINK, failures: [failure] }, TypeError, "failures[0].slow.toMs must be after fromMs");
  }
  for (const [backMs, goneMs] of [[5, 10], [[5, 20], 10], [15, [10, 20]]] as const) {
    const failures = [{ goneMs: 1 }, { goneMs, backMs }];
    refuse({ ...LINK, failures }, TypeError, "failures[1].backMs must be not before goneMs");
  }
  const tight: LinkProfile = {
    ...LINK,
    failures: [{ goneMs: [5, 10], backMs: [10, 20], slow: { factor: 2, fromMs: 1, toMs: 2 } }],
  };
  assertEquals(readLinkProfile(tight), tight);
  refuse({ ...LINK, failures: [{ device: 0.5, goneMs: 1 }] }, TypeError, "device must be an integer");
  const { transport } = inProcessTransport();
  assertThrows(() => emulateLink(transport, { ...LINK, mtuBytes: 0 }), RangeError, "mtuBytes");
});

Deno.test("expectedResends() is the mean of the largest geometric number", () => {
  const random = makeRandom(11);
  for (const [parts, loss] of [[1, 0.3], [20, 0.05], [2000, 0.001]] as const) {
    let sum = 0;
    const rounds = 4000;
    for (let i = 0; i < rounds; i++) {
      for (let left = drawCount(parts, loss, random); left > 0; left = drawCount(left, loss, random)) sum++;
    }
    const expected = expectedResends(parts, loss);
    const margin = 4 * Math.sqrt(expected * 1.3 / rounds);
    assert(Math.abs(sum / rounds - expected) < margin, `${sum / rounds} instead of ${expected}`);
  }
  assertEquals(expectedResends(10, 0), 0);
});
