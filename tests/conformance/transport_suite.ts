/**
 * What every transport has to do. Call `testTransport` in a test file of the transport.
 *
 * @module
 */

import { type Channel, ChannelClosedError, type Listener, type Transport } from "@edgetuner/core";
import { assert, assertEquals, assertInstanceOf, assertRejects, assertStrictEquals } from "@std/assert";
import { stretch } from "../support/quick.ts";

/** A frame. */
export type Frame = Uint8Array<ArrayBuffer>;

/** One transport with its listener, set up for one test. */
export interface TransportFixture extends AsyncDisposable {
  /** The transport under test; both sides have the same largest frame, of some MiB, since one is sent. */
  readonly transport: Transport;
  /** Where its channels arrive. */
  readonly listener: Listener;
  /** The same transport, pointed at where nobody listens. */
  readonly unreachable: Transport;
}

/** What is tested. */
export interface TransportSuiteOptions {
  /** Prefix of the names of the tests. */
  readonly name: string;
  /** What their names end with, such as a mark of slow tests. @default {nothing} */
  readonly mark?: string;
  /** Sets up a fresh fixture. */
  open(): Promise<TransportFixture>;
}

/** The two ends of one channel. */
interface Pair extends AsyncDisposable {
  readonly device: Channel;
  readonly edge: Channel;
}

/** Limit for everything that has to happen; far above what it takes. */
const LIMIT_MS = 10_000;

/** A send that takes longer on a quiet machine is taken to wait for the receiver. */
const PENDING_MS = 60;

const FILL_FRAME_BYTES = 256 * 2 ** 10;
const FILL_MAX_FRAMES = 256;

/** Defines a test that fails if it leaves a timer, a socket or anything else behind. */
export function testStrictly(name: string, fn: () => void | Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: true, sanitizeResources: true });
}

/** Waits for `promise`, but not longer than the limit. */
export async function within<T>(
  promise: PromiseLike<T>,
  what: string,
  limitMs: number = LIMIT_MS,
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`${what} takes longer than ${limitMs} ms`)), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Tells whether `promise` is still pending after a while, which is longer where others use the machine too. */
export async function isPending(
  promise: Promise<unknown>,
  ms: number = PENDING_MS * stretch(),
): Promise<boolean> {
  const { promise: over, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(resolve, ms, true);
  const settled = promise.then(() => false, () => false);
  try {
    return await Promise.race([settled, over]);
  } finally {
    clearTimeout(timer);
  }
}

/** Makes a frame whose bytes depend on its size and on `seed`. */
export function pattern(bytes: number, seed = 0): Frame {
  const frame = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) frame[i] = (i * 31 + (i >>> 8) + seed) & 255;
  return frame;
}

function assertSame(actual: Frame | null, expected: Frame, what: string): asserts actual is Frame {
  assert(actual, `${what} is missing`);
  assertEquals(actual.byteLength, expected.byteLength, `size of ${what}`);
  // Far faster than an assertion on each byte.
  let i = 0;
  while (i < expected.length && actual[i] === expected[i]) i++;
  assertEquals(i, expected.length, `number of right bytes at the start of ${what}`);
}

async function connectPair(fixture: TransportFixture): Promise<Pair> {
  const device = await within(fixture.transport.connect(), "connect");
  const edge = await within(fixture.listener.accept(), "accept");
  assert(edge);
  return {
    device,
    edge,
    async [Symbol.asyncDispose]() {
      await within(Promise.all([device.close(), edge.close()]), "close");
    },
  };
}

function receive(channel: Channel): Promise<Frame | null> {
  return within(channel.receive(), "receive");
}

/** Sends until the receiver, which does not receive, holds the sender back. */
async function fill(
  channel: Channel,
): Promise<{ readonly accepted: number; readonly pending: Promise<void> }> {
  for (let accepted = 0; accepted < FILL_MAX_FRAMES; accepted++) {
    const pending = channel.send(pattern(FILL_FRAME_BYTES, accepted));
    if (await isPending(pending)) return { accepted, pending };
    await pending;
  }
  throw new Error(`No back-pressure after ${FILL_MAX_FRAMES * FILL_FRAME_BYTES} bytes`);
}

/** Runs the tests that every transport has to pass. */
export function testTransport({ name, mark = "", open }: TransportSuiteOptions): void {
  function test(what: string, body: (fixture: TransportFixture) => Promise<void>): void {
    testStrictly(`${name}: ${what}${mark}`, async () => {
      await using fixture = await open();
      await body(fixture);
    });
  }

  /** Runs the body for each side of the channel. */
  function testSides(
    what: string,
    body: (here: Channel, there: Channel, maxFrameBytes: number) => Promise<void>,
  ): void {
    for (const side of ["device", "edge"] as const) {
      test(`${what} (${side})`, async (fixture) => {
        await using pair = await connectPair(fixture);
        const { device, edge } = pair;
        const { maxFrameBytes } = fixture.transport.flags;
        await (side === "device" ? body(device, edge, maxFrameBytes) : body(edge, device, maxFrameBytes));
      });
    }
  }

  test("has true flags and a name", async ({ transport }) => {
    const { flags } = transport;
    assert(transport.name.length > 0);
    assertEquals(flags.ordered, true);
    assertEquals(typeof flags.duplex, "boolean");
    assertEquals(typeof flags.remote, "boolean");
    assert(Number.isInteger(flags.maxFrameBytes) && flags.maxFrameBytes >= 2 ** 20);
    await Promise.resolve();
  });

  test("echoes frames of all sizes", async (fixture) => {
    await using pair = await connectPair(fixture);
    const { device, edge } = pair;
    assert(device.peer.length > 0 && edge.peer.length > 0);
    for (const bytes of [0, 1, 1_000_000, fixture.transport.flags.maxFrameBytes, 3]) {
      const frame = pattern(bytes, 7);
      await within(device.send(frame), "send");
      const arrived = await receive(edge);
      assertSame(arrived, frame, `frame of ${bytes} bytes at the edge`);
      assertEquals(arrived.byteOffset % 8, 0, "a frame must be aligned for views of its numbers");
      await within(edge.send(arrived), "send");
      assertSame(await receive(device), frame, `frame of ${bytes} bytes at the device`);
    }
  });

  testSides("refuses an oversized frame and goes on", async (here, there, maxFrameBytes) => {
    const tooLarge = new Uint8Array(maxFrameBytes + 1);
    await assertRejects(() => here.send(tooLarge), RangeError, String(tooLarge.byteLength));
    await within(here.send(pattern(5)), "send");
    assertSame(await receive(there), pattern(5), "the next frame");
  });

  testSides("keeps the order of many small frames", async (here, there) => {
    const frames = 2000;
    const sending = Promise.all(
      Array.from({ length: frames }, (_, i) => here.send(new Uint8Array(new Uint32Array([i]).buffer))),
    );
    for (let i = 0; i < frames; i++) {
      const frame = await receive(there);
      assertEquals(frame && new Uint32Array(frame.slice().buffer)[0], i);
    }
    await within(sending, "sending");
  });

  test("carries both directions at once", async (fixture) => {
    await using pair = await connectPair(fixture);
    const sizes = Array.from({ length: 60 }, (_, i) => i % 3 === 0 ? 100_000 : i);
    async function send(channel: Channel, seed: number): Promise<void> {
      for (const [i, bytes] of sizes.entries()) await within(channel.send(pattern(bytes, seed + i)), "send");
    }
    async function take(channel: Channel, seed: number): Promise<void> {
      for (const [i, bytes] of sizes.entries()) {
        assertSame(await receive(channel), pattern(bytes, seed + i), `frame ${i}`);
      }
    }
    const { device, edge } = pair;
    await Promise.all([send(device, 1), send(edge, 101), take(device, 101), take(edge, 1)]);
  });

  testSides("holds the sender back until the receiver takes frames", async (here, there) => {
    const { accepted, pending } = await fill(here);
    // Or the sender would wait for the receiver after every frame.
    assert(accepted >= 2, `only ${accepted} frames were accepted`);
    for (let i = 0; i <= accepted; i++) {
      assertSame(await receive(there), pattern(FILL_FRAME_BYTES, i), `frame ${i}`);
    }
    await within(pending, "the held send");
    await within(here.send(pattern(9)), "send");
    assertSame(await receive(there), pattern(9), "the last frame");
  });

  testSides("ends a held send by its signal", async (here, there) => {
    const { accepted, pending } = await fill(here);
    const controller = new AbortController();
    const reason = new Error("changed my mind");
    const ended = here.send(pattern(1), { signal: controller.signal });
    const after = here.send(pattern(2));
    controller.abort(reason);
    assertStrictEquals(await ended.catch((error) => error), reason);
    for (let i = 0; i <= accepted; i++) await receive(there);
    await within(Promise.all([pending, after]), "the held sends");
    assertSame(await receive(there), pattern(2), "the frame behind the one that was taken back");
  });

  testSides("ends a receive by its signal and loses nothing", async (here, there) => {
    const controller = new AbortController();
    const reason = new Error("changed my mind");
    const ended = here.receive({ signal: controller.signal });
    controller.abort(reason);
    assertStrictEquals(await ended.catch((error) => error), reason);
    await assertRejects(() => here.receive({ signal: controller.signal }), Error, "changed my mind");
    await assertRejects(
      () => there.send(pattern(1), { signal: controller.signal }),
      Error,
      "changed my mind",
    );
    await within(there.send(pattern(3)), "send");
    assertSame(await receive(here), pattern(3), "the frame");
  });

  test("ends connecting and accepting by their signals", async ({ transport, listener }) => {
    const reason = new Error("changed my mind");
    const aborted = AbortSignal.abort(reason);
    assertStrictEquals(await transport.connect({ signal: aborted }).catch((error) => error), reason);
    assertStrictEquals(await listener.accept({ signal: aborted }).catch((error) => error), reason);
    const controller = new AbortController();
    const accepting = listener.accept({ signal: controller.signal });
    controller.abort(reason);
    assertStrictEquals(await accepting.catch((error) => error), reason);
    const late = new AbortController();
    const connecting = transport.connect({ signal: late.signal });
    late.abort(reason);
    // A transport that connects at once may be done before.
    const outcome = await within(connecting.catch((error) => error), "connect");
    if (outcome !== reason) await outcome.close();
  });

  testSides("ends a waiting receive of both sides when one closes", async (here, there) => {
    const waiting = [here.receive(), there.receive()];
    await within(here.close("enough for today"), "close");
    assertEquals(await within(Promise.all(waiting), "receive"), [null, null]);
    assertEquals(await within(here.closed, "closed"), { clean: true, reason: "enough for today" });
    assertEquals(await within(there.closed, "closed"), { clean: true, reason: "enough for today" });
    assertEquals(await receive(here), null);
    assertEquals(await receive(there), null);
  });

  testSides("delivers the frames accepted before closing", async (here, there) => {
    const sizes = [1, 0, 100_000, 2, 300_000, 3];
    for (const [i, bytes] of sizes.entries()) await within(here.send(pattern(bytes, i)), "send");
    await within(here.close(), "close");
    await within(there.closed, "closed");
    for (const [i, bytes] of sizes.entries()) {
      assertSame(await receive(there), pattern(bytes, i), `frame ${i}`);
    }
    assertEquals(await receive(there), null);
  });

  testSides("refuses to send after closing", async (here, there) => {
    await within(here.close("over"), "close");
    await assertRejects(() => within(here.send(pattern(1)), "send"), ChannelClosedError, "over");
    await within(there.closed, "closed");
    await assertRejects(() => within(there.send(pattern(1)), "send"), ChannelClosedError, "over");
  });

  testSides("refuses held sends when a side closes", async (here, there) => {
    const { pending } = await fill(here);
    const outcome = pending.catch((error) => error);
    await within(there.close("no more"), "close");
    assertInstanceOf(await within(outcome, "the held send"), ChannelClosedError);
  });

  testSides("closes any number of times", async (here, there) => {
    await within(Promise.all([here.close("first"), here.close("second"), there.close("third")]), "close");
    await within(here.close(), "close");
    await within(here[Symbol.asyncDispose](), "dispose");
    await within(here[Symbol.asyncDispose](), "dispose");
    const { clean } = await within(here.closed, "closed");
    assertEquals(clean, true);
  });

  test("keeps two channels apart", async (fixture) => {
    await using first = await connectPair(fixture);
    await using second = await connectPair(fixture);
    for (let i = 0; i < 20; i++) {
      await Promise.all([first.device.send(pattern(i, 1)), second.device.send(pattern(i, 2))]);
      await Promise.all([first.edge.send(pattern(i, 3)), second.edge.send(pattern(i, 4))]);
    }
    for (let i = 0; i < 20; i++) {
      assertSame(await receive(first.edge), pattern(i, 1), "frame of the first device");
      assertSame(await receive(second.edge), pattern(i, 2), "frame of the second device");
      assertSame(await receive(first.device), pattern(i, 3), "frame for the first device");
      assertSame(await receive(second.device), pattern(i, 4), "frame for the second device");
    }
    await within(first.device.close(), "close");
    await within(second.device.send(pattern(4)), "send");
    assertSame(await receive(second.edge), pattern(4), "frame of the channel that stays");
  });

  test("says so when nobody listens", async ({ unreachable }) => {
    await assertRejects(() => within(unreachable.connect(), "connect"), ChannelClosedError);
  });

  test("takes no more channels once the listener is closed", async (fixture) => {
    await using pair = await connectPair(fixture);
    const { transport, listener } = fixture;
    const accepting = listener.accept();
    await within(listener[Symbol.asyncDispose](), "dispose");
    assertEquals(await within(accepting, "accept"), null);
    assertEquals(await within(listener.accept(), "accept"), null);
    await assertRejects(() => within(transport.connect(), "connect"), ChannelClosedError);
    await within(listener[Symbol.asyncDispose](), "dispose");
    await within(pair.device.send(pattern(6)), "send");
    assertSame(await receive(pair.edge), pattern(6), "a frame of a channel that was open before");
  });
}
