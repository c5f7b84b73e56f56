/**
 * What a transport over a network has to bear: connections that are cut, stall and are silent, without a frame being
 * lost or coming twice, and without either side hearing of it. Call `testLinkFaults` in a test file of the transport.
 *
 * @module
 */

import type { Channel, Listener, Transport } from "@edgetuner/core";
import { assert, assertEquals } from "@std/assert";
import type { FaultyRelay } from "../support/faulty_relay.ts";
import { until } from "../support/until.ts";
import { isPending, pattern, within } from "./transport_suite.ts";

/** Limits that the sides are to be opened with. */
export const FAULT_LIMITS = {
  pingIntervalMs: 80,
  idleTimeoutMs: 300,
  retryTimeoutMs: 8000,
  goneTimeoutMs: 8000,
} as const;

/** A transport whose connections go over a relay. */
export interface FaultFixture extends AsyncDisposable {
  readonly transport: Transport;
  readonly listener: Listener;
  /** Between the device and what it connects to. */
  readonly relay: FaultyRelay;
}

/** What is tested. */
export interface LinkFaultsOptions {
  /** Prefix of the names of the tests. */
  readonly name: string;
  /** Frames that are each followed by a cut. @default {16} */
  readonly cutFrames?: number;
  /** True if a library below leaves timers of attempts to connect behind, for a while. */
  readonly leavesTimers?: boolean;
  /** Sets up a fresh fixture with `FAULT_LIMITS`. */
  open(): Promise<FaultFixture>;
}

/** Longest time for a test's frames. */
const LIMIT_MS = 20_000;

interface Ends {
  readonly device: Channel;
  readonly edge: Channel;
  readonly relay: FaultyRelay;
}

/** Sends frames, each once the one before has come, and checks that it is the one. */
async function carry(
  from: Channel,
  to: Channel,
  { sizes, before = () => {}, after = () => {} }: {
    readonly sizes: readonly number[];
    readonly before?: (i: number) => void;
    readonly after?: (i: number) => void;
  },
): Promise<void> {
  const all = async () => {
    for (const [i, bytes] of sizes.entries()) {
      before(i);
      const [frame] = await Promise.all([to.receive(), from.send(pattern(bytes, i))]);
      assert(frame !== null, `frame ${i} is missing: ${frame ?? (await to.closed).reason}`);
      const expected = pattern(bytes, i);
      const isSame = frame.byteLength === bytes && frame.every((byte, k) => byte === expected[k]);
      assert(isSame, `frame ${i} of ${bytes} bytes came as another one of ${frame.byteLength}`);
      after(i);
    }
  };
  await within(all(), "all frames", LIMIT_MS);
}

/** Defines the tests. */
export function testLinkFaults(options: LinkFaultsOptions): void {
  const { name, open, cutFrames = 16, leavesTimers = false } = options;

  function test(what: string, body: (ends: Ends) => Promise<void>): void {
    const isStrict = !leavesTimers;
    const limits = { sanitizeOps: isStrict, sanitizeResources: isStrict };
    Deno.test({ name: `${name}: ${what} [slow]`, ...limits }, async () => {
      await using fixture = await open();
      const device = await within(fixture.transport.connect(), "connect");
      const edge = (await within(fixture.listener.accept(), "accept"))!;
      await body({ device, edge, relay: fixture.relay });
      // Nothing came twice, and nobody noticed anything.
      assertEquals(
        await isPending(Promise.race([device.receive(), edge.receive(), device.closed, edge.closed])),
        true,
      );
      await within(Promise.all([device.close("done"), edge.close("done")]), "close");
      assertEquals((await Promise.all([device.closed, edge.closed])).map(({ clean }) => clean), [true, true]);
    });
  }

  for (const side of ["device", "edge"] as const) {
    const ends = (all: Ends) =>
      side === "device" ? [all.device, all.edge] as const : [all.edge, all.device] as const;

    test(`a connection that is cut in mid-frame costs nothing (${side})`, async (all) => {
      const [from, to] = ends(all);
      const before = (i: number) => i % 2 === 1 && all.relay.resetAfter(300_000);
      await carry(from, to, { sizes: [10, 900_000, 20, 700_000, 0, 1_000_000, 5], before });
      assert(all.relay.cuts >= 3, `${all.relay.cuts} cuts`);
    });

    test(`a direction that stalls is found, and frames go on (${side})`, async (all) => {
      const [from, to] = ends(all);
      const direction = side === "device" ? "up" : "down";
      const before = (i: number) => i === 2 && all.relay.stall(direction);
      await carry(from, to, { sizes: [10, 20_000, 30, 40_000, 50], before });
    });
  }

  test("connections that are cut at every frame cost nothing", async ({ device, edge, relay }) => {
    const sizes = Array.from({ length: cutFrames }, (_, i) => i % 5 === 0 ? 150_000 : 10 * i);
    const after = () => relay.reset();
    await Promise.all([carry(device, edge, { sizes, after }), carry(edge, device, { sizes, after })]);
    assert(relay.cuts >= sizes.length / 2, `${relay.cuts} cuts`);
  });

  test("a network that passes nothing on for a while is survived", async ({ device, edge, relay }) => {
    relay.deafen();
    const carrying = Promise.all([
      carry(device, edge, { sizes: [10, 20_000, 30] }),
      carry(edge, device, { sizes: [40, 50_000, 60] }),
    ]);
    const before = relay.connections;
    await until(() => relay.connections > before, "an attempt to connect anew");
    assertEquals(await isPending(carrying, 1000), true);
    relay.hear();
    relay.reset();
    await carrying;
  });
}
