/**
 * Devices that come and go: each is away for a share of the time, whatever the others do.
 *
 * @module
 */

import { randomStream } from "@edgetuner/core";
import { takes } from "../../tests/support/until.ts";
import type { ChaosDevice, ChaosRun } from "./run.ts";

/** How long a device is there and away, once, in milliseconds. */
const PERIOD_MS = [15_000, 45_000] as const;
/** Longest time without a step in which nobody need worry, in milliseconds. */
const LIMIT_MS = 120_000;

/** Ways of being away, and back. */
const WAYS: readonly {
  readonly go: (device: ChaosDevice) => void;
  readonly back: (device: ChaosDevice) => void;
}[] = [
  { go: ({ party }) => party.signal("SIGSTOP"), back: ({ party }) => party.signal("SIGCONT") },
  {
    go({ proxy }) {
      proxy.refuse(true);
      proxy.reset();
    },
    back: ({ proxy }) => proxy.refuse(false),
  },
  { go: ({ proxy }) => proxy.hold(["up", "down"]), back: ({ proxy }) => proxy.forget() },
];

/** What came of it. */
export interface Absence {
  /** Times that a device went. */
  readonly times: number;
  /** Share of all heads, over the steps, whose devices were away. */
  readonly headsAway: number;
  /** Longest time from one step to the next, in seconds. */
  readonly stillSeconds: number;
}

/**
 * Lets each device come and go for some time, and waits until all are there again.
 *
 * @param share Share of the time for which each is away.
 * @throws {Error} If a process ends, or no step comes any more.
 */
export async function comeAndGo(
  run: ChaosRun,
  { share, minutes, seed }: { readonly share: number; readonly minutes: number; readonly seed: number },
): Promise<Absence> {
  const started = performance.now();
  const end = started + minutes * 60_000;
  const over = new AbortController();
  let times = 0;
  const each = async (device: ChaosDevice) => {
    const random = randomStream(seed, device.index);
    const [least, most] = PERIOD_MS;
    while (performance.now() < end && !over.signal.aborted) {
      const period = least + (most - least) * random.float();
      const way = WAYS[random.below(WAYS.length)]!;
      const before = random.float();
      await takes(before * (1 - share) * period, over.signal);
      if (performance.now() >= end || over.signal.aborted) return;
      way.go(device);
      times++;
      await takes(share * period, over.signal);
      way.back(device);
      await takes((1 - before) * (1 - share) * period, over.signal);
    }
  };
  const going = Promise.all(run.devices.map(each));
  try {
    while (performance.now() < end) {
      const { told } = run;
      await run.until(() => run.told > told || performance.now() > end, "the next step", LIMIT_MS);
    }
  } finally {
    over.abort();
    await going;
  }
  await run.until(() => run.isWhole, "all devices");
  const heads = run.steps[0]!.mask.length;
  const away = run.steps.map((step) => step.away.length * run.layers / heads);
  return {
    times,
    headsAway: away.reduce((a, b) => a + b, 0) / away.length,
    stillSeconds: run.stillMs(started) / 1000,
  };
}
