/**
 * Whether a budget of seconds or bytes is held by whole runs on simulated links, also where the links change.
 */

import { assert, assertEquals } from "@std/assert";
import type { LinkStatistics, Pruner } from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { deadlinePruner, noPruner } from "@edgetuner/plugins";
import { type ComputeModel, type LinkFailure, type LinkProfile, simulate } from "@edgetuner/transport";
import { batchOf, LOSS, TinyGpt2, tinySettings } from "../support/tiny_model.ts";

const engine = await Engine.create();
const tiny = new TinyGpt2(engine);
const COMPUTE: ComputeModel = {
  edgeServer: { gflops: 20, overheadMs: 0.1 },
  device: { gflops: 1, overheadMs: 0.3 },
};
/** What travels takes nearly all of the time. */
const NARROW = linkOf("narrow", 1, 2);
/** The way takes nearly all of it. */
const FAR = linkOf("far", 200, 60);

function linkOf(name: string, bandwidthMbit: number, latencyMs: number): LinkProfile {
  const way = { bandwidthMbit, latencyMs, jitterMs: latencyMs / 5 };
  return { name, up: way, down: way };
}

async function run(pruner: Pruner, link: LinkProfile, steps: number, failures: readonly LinkFailure[] = []) {
  const result = await simulate({
    model: { engine, layers: tiny.layers, ends: tiny.ends },
    settings: tinySettings("slice", steps),
    batches: () => batchOf(4),
    loss: LOSS,
    // What else a data device sends would be on the same link.
    devices: [{ capacity: 0, data: true }, { capacity: 2 }, {}, {}],
    pruner,
    link: { ...link, failures },
    compute: COMPUTE,
  });
  assertEquals(result.error, null);
  return { ...result, seconds: result.steps.map(({ times }) => times.total / 1000) };
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Means of a row of steps, 10 each. */
function tens(values: readonly number[], from: number): number[] {
  const all = values.slice(from);
  return Array.from({ length: Math.floor(all.length / 10) }, (_, i) => mean(all.slice(10 * i, 10 * i + 10)));
}

for (const share of [0.7, 0.5]) {
  Deno.test(`deadline: ${100 * share} % of the seconds of all heads are held within 10 %: by layers on far links, by heads on narrow ones [slow]`, async () => {
    const partly = new Map<LinkProfile, number>();
    for (const link of [NARROW, FAR]) {
      const budget = share * mean((await run(noPruner() as Pruner, link, 5)).seconds.slice(1));
      const { steps, seconds } = await run(deadlinePruner({ secondsPerStep: budget }) as Pruner, link, 46);
      const held = tens(seconds, 6).map((s) => s / budget);
      assert(held.every((ratio) => ratio < 1.1), `${link.name}: ${held}`);
      // With far links little else than one of three layers can be left out.
      assert(mean(held) > (link === FAR ? 0.65 : 0.85), `${link.name}: ${held}`);
      // Of the layers from which anything was left out, those of which something was kept.
      const kept = steps.slice(6).flatMap(({ kept }) => kept);
      const some = kept.filter((n) => n > 0 && n < 4).length;
      partly.set(link, some / (some + kept.filter((n) => n === 0).length));
    }
    assert(partly.get(NARROW)! > 1.5 * partly.get(FAR)!, `${[...partly.values()]}`);
  });
}

Deno.test("deadline: seconds are held while links get two and four times as weak and recover, and it says what it gives up [slow]", async () => {
  const all = mean((await run(noPruner() as Pruner, NARROW, 5)).seconds.slice(1));
  const budget = 0.8 * all;
  const [fromMs, toMs] = [20_000 * budget, 40_000 * budget];
  const failures = [{ weak: { factor: 2, fromMs, toMs } }, { device: 1, weak: { factor: 2, fromMs, toMs } }];
  const { steps, seconds } = await run(
    deadlinePruner({ secondsPerStep: budget }) as Pruner,
    NARROW,
    66,
    failures,
  );
  const held = tens(seconds, 6).map((s) => s / budget);
  assert(held.every((ratio) => ratio < 1.25), `${held}`);
  assert(Math.abs(mean(seconds.slice(6)) / budget - 1) < 0.1, `${held}`);
  const gave = steps.map(({ figures }) => figures?.importanceGivenUp ?? 0);
  const weak = steps.flatMap(({ atMs }, i) => atMs > fromMs + 3000 * budget && atMs < toMs ? [gave[i]!] : []);
  assert(mean(weak) > 1.5 * mean(gave.slice(-10)), `${gave}`);
  assert(
    steps.slice(3).every(({ figures, kept }) =>
      figures!.headsGivenUp === 12 - kept.reduce((a, b) => a + b, 0)
    ),
  );
});

Deno.test("deadline: bytes are held within 10 % [slow]", async () => {
  const all = mean((await run(noPruner() as Pruner, NARROW, 4)).steps.slice(1).map(({ bytes }) => bytes));
  const bytesPerStep = 0.6 * all;
  const { steps } = await run(deadlinePruner({ bytesPerStep }) as Pruner, NARROW, 26);
  for (const { bytes } of steps.slice(6, -1)) {
    assert(bytes < 1.1 * bytesPerStep && bytes > 0.8 * bytesPerStep, `${bytes} of ${bytesPerStep}`);
  }
});

Deno.test("pruners hear of measured links what the profile says [slow]", async () => {
  const told: LinkStatistics[] = [];
  const pruner: Pruner = {
    name: "listening",
    needs: ["links"],
    init: () => null,
    // Other numbers of heads tell a round trip from what a head takes.
    decide({ step, links }, state) {
      if (links) told.push(links);
      return [
        { mask: Uint8Array.from({ length: 12 }, (_, i) => step % 2 === 1 && i % 2 === 1 ? 1 : 0) },
        state,
      ];
    },
  };
  const quiet = {
    name: "quiet",
    up: { bandwidthMbit: 2, latencyMs: 15 },
    down: { bandwidthMbit: 4, latencyMs: 25 },
  };
  const { steps } = await run(pruner, quiet, 12);
  const { devices, lastStep, bytesPerHead } = told.at(-1)!;
  assertEquals(told.length, 11);
  const [down, up] = [4e6 / 8, 2e6 / 8];
  const transfer = bytesPerHead.down / down + bytesPerHead.up / up;
  // The first device has two heads in some steps and one in others, which tells a head from a round trip.
  const { roundTripSeconds, secondsPerHead: { forward, backward }, bytesPerSecond } = devices[0]!;
  assert(roundTripSeconds > 0.04 && roundTripSeconds < 0.05, `${roundTripSeconds}`);
  assert(Math.abs((forward + backward) / transfer - 1) < 0.05, `${forward} ${backward} ${transfer}`);
  assert(Math.abs(bytesPerSecond!.down / down - 1) < 0.1, `${bytesPerSecond!.down}`);
  assert(Math.abs(bytesPerSecond!.up / up - 1) < 0.1, `${bytesPerSecond!.up}`);
  // Of the others, with one head each, both together are known.
  for (const { roundTripSeconds, secondsPerHead } of devices.slice(1).map((device) => device!)) {
    const both = 2 * roundTripSeconds + secondsPerHead.forward + secondsPerHead.backward;
    assert(Math.abs(both / (2 * devices[0]!.roundTripSeconds + forward + backward) - 1) < 0.05, `${both}`);
  }
  assert(bytesPerHead.down > 0 && bytesPerHead.up > 0);
  const { times, bytes } = steps.at(-2)!;
  assert(Math.abs(lastStep.seconds / (times.total / 1000) - 1) < 0.05, `${lastStep.seconds} ${times.total}`);
  assert(Math.abs(lastStep.bytes / bytes - 1) < 0.05, `${lastStep.bytes} ${bytes}`);
});
