/**
 * What is done to a run.
 *
 * @module
 */

import type { RandomStream } from "@edgetuner/core";
import type { FaultyProxy } from "./proxy.ts";
import type { ChaosDevice, ChaosRun } from "./run.ts";
import { takes } from "../../tests/support/until.ts";

/** What a fault does. */
export interface FaultPlan {
  /** In words. */
  readonly what: string;
  /** The device that it meets; `null` for the edge server. */
  readonly device: ChaosDevice | null;
  /** Does it; resolves once the device or the edge server can be reached again. */
  act(): Promise<void>;
}

/** A kind of fault. */
export interface FaultKind {
  /** How often it comes, compared with the others. */
  readonly weight: number;
  /** Draws one. */
  plan(run: ChaosRun, random: RandomStream, longestMs: number): FaultPlan;
}

/** How often a disk is filled again, in milliseconds. */
const FILL_MS = 50;

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;

/** From 5 s on, short ones more often. */
function stopMs(random: RandomStream, longestMs: number): number {
  return Math.min(longestMs, 5000 * (longestMs / 5000) ** random.float());
}

/** A few seconds. */
const shortMs = (random: RandomStream, longestMs: number) =>
  Math.min(longestMs, 300 + 7700 * random.float() ** 2);

const deviceOf = (run: ChaosRun, random: RandomStream) => run.devices[random.below(run.devices.length)]!;

function ofLink(
  what: string,
  act: (device: ChaosDevice, ms: number) => Promise<void> | void,
): FaultKind {
  return {
    weight: 2,
    plan(run, random, longestMs) {
      const device = deviceOf(run, random);
      const ms = shortMs(random, longestMs);
      return { what: `${what} (${seconds(ms)})`, device, act: async () => await act(device, ms) };
    },
  };
}

/** What becomes of the link between the edge server and its broker; without one, of the links of all devices at once. */
function ofServer(
  what: string,
  act: (proxies: readonly FaultyProxy[], ms: number) => Promise<void>,
): FaultKind {
  return {
    weight: 1,
    plan(run, random, longestMs) {
      const ms = shortMs(random, longestMs);
      return {
        what: `its links: ${what} (${seconds(ms)})`,
        device: null,
        act: async () => await act(run.serverLinks, ms),
      };
    },
  };
}

/** All kinds, by their names. */
export const FAULTS: Readonly<Record<string, FaultKind>> = {
  kill: {
    weight: 3,
    plan(run, random, longestMs) {
      const device = deviceOf(run, random);
      const ms = shortMs(random, longestMs);
      return {
        what: `kill -9, and again with --resume after ${seconds(ms)}`,
        device,
        async act() {
          await run.kill(device);
          await takes(ms);
          run.restart(device);
        },
      };
    },
  },
  stop: {
    weight: 2,
    plan(run, random, longestMs) {
      const device = deviceOf(run, random);
      const ms = stopMs(random, longestMs);
      return {
        what: `SIGSTOP for ${seconds(ms)}`,
        device,
        async act() {
          device.party.signal("SIGSTOP");
          await takes(ms);
          device.party.signal("SIGCONT");
        },
      };
    },
  },
  reset: ofLink("connections reset", ({ proxy }) => proxy.reset()),
  drop: ofLink("reset, and new connections refused", async ({ proxy }, ms) => {
    proxy.refuse(true);
    proxy.reset();
    await takes(ms);
    proxy.refuse(false);
  }),
  "stall-up": ofLink("nothing arrives from the device for a while", async ({ proxy }, ms) => {
    proxy.hold(["up"]);
    await takes(ms);
    proxy.heal();
  }),
  "stall-down": ofLink("nothing arrives at the device for a while", async ({ proxy }, ms) => {
    proxy.hold(["down"]);
    await takes(ms);
    proxy.heal();
  }),
  "hole-up": ofLink("the connection is a black hole up", async ({ proxy }, ms) => {
    proxy.hold(["up"]);
    await takes(ms);
    proxy.forget();
  }),
  "hole-down": ofLink("the connection is a black hole down", async ({ proxy }, ms) => {
    proxy.hold(["down"]);
    await takes(ms);
    proxy.forget();
  }),
  hole: ofLink("the connection is a black hole both ways", async ({ proxy }, ms) => {
    proxy.hold(["up", "down"]);
    await takes(ms);
    proxy.forget();
  }),
  delay: ofLink("everything comes 300 ms later", async ({ proxy }, ms) => {
    proxy.delay(300);
    await takes(ms);
    proxy.delay(0);
  }),
  replay: ofLink("what was sent first comes once more over another connection", async ({ proxy }, ms) => {
    const socket = proxy.replay();
    await takes(Math.min(ms, 2000));
    socket?.destroy();
  }),
  "server-reset": ofServer("reset, and new connections refused", async (proxies, ms) => {
    for (const proxy of proxies) {
      proxy.refuse(true);
      proxy.reset();
    }
    await takes(ms);
    for (const proxy of proxies) proxy.refuse(false);
  }),
  "server-hole": ofServer("black holes both ways", async (proxies, ms) => {
    for (const proxy of proxies) proxy.hold(["up", "down"]);
    await takes(ms);
    for (const proxy of proxies) proxy.forget();
  }),
  "disk-full": {
    weight: 2,
    plan(run, random, longestMs) {
      const device = deviceOf(run, random);
      const ms = shortMs(random, longestMs);
      return {
        what: `no room for its states; once it has ended, and ${
          seconds(ms)
        } later, there is, and it is started again`,
        device,
        async act() {
          if (device.disk === null) {
            throw new Error("no small disk can be made here: run it as root, on Linux");
          }
          const { disk } = device;
          // Old states that it removes would leave room for new ones.
          const filling = setInterval(() => void disk.fill(), FILL_MS);
          await run.untilEnded(device, `${device.party.name} ends, as it cannot save`)
            .finally(() => clearInterval(filling));
          await takes(ms);
          await disk.free();
          run.restart(device);
        },
      };
    },
  },
  server: {
    weight: 2,
    plan(run, random, longestMs) {
      const ms = shortMs(random, longestMs);
      return {
        what: `kill -9 of the edge server, and again with --resume after ${seconds(ms)}`,
        device: null,
        act: () => run.restartServer(() => takes(ms)),
      };
    },
  },
  "server-away": {
    weight: 1,
    plan(run, random, longestMs) {
      const device = deviceOf(run, random);
      const ms = 6000 + shortMs(random, longestMs);
      return {
        what: `cut off for ${seconds(ms)}, in which states are saved, and then the edge server is killed too`,
        device,
        async act() {
          device.proxy.refuse(true);
          device.proxy.reset();
          await takes(ms);
          await run.restartServer(() => takes(300));
          device.proxy.refuse(false);
        },
      };
    },
  },
  "server-stop": {
    weight: 1,
    plan(run, random, longestMs) {
      const ms = stopMs(random, longestMs);
      return {
        what: `SIGSTOP of the edge server for ${seconds(ms)}`,
        device: null,
        async act() {
          run.server.signal("SIGSTOP");
          await takes(ms);
          run.server.signal("SIGCONT");
        },
      };
    },
  },
};
