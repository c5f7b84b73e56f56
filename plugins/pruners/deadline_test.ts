import { assert, assertEquals, assertThrows } from "@std/assert";
import type { LinkStatistics, Pruner, PrunerContext } from "@edgetuner/core/contracts";
import { testPruner } from "../../tests/conformance/pruner_suite.ts";
import { deadlinePruner, type DeadlinePrunerOptions } from "../mod.ts";
import { chooseOptions } from "./_knapsack.ts";

testPruner({ name: "deadline", create: () => deadlinePruner({ secondsPerStep: 0.4 }) as Pruner });
testPruner({
  name: "deadline, bytes",
  create: () => deadlinePruner({ bytesPerStep: 1e5, warmupSteps: 1, maxRest: 6 }) as Pruner,
});

const CONTEXT: PrunerContext = { layers: 3, heads: 4, headsPerDevice: [2, 2], capacities: [1, 1], seed: 1 };
const IMPORTANCE = Float32Array.of(9, 8, 7, 6, 5, 5, 5, 1, 4, 2, 3, 0);

/** Links of two devices that are alike. */
function linksOf(roundTripSeconds: number, forward: number, seconds: number): LinkStatistics {
  const link = { roundTripSeconds, secondsPerHead: { forward, backward: 2 * forward }, bytesPerSecond: null };
  return {
    devices: [link, link],
    bytesPerHead: { down: 1000, up: 1000 },
    bytesPerDevice: 432,
    lastStep: { seconds, bytes: 40_000 },
  };
}

/** The decision after a step in which every head was kept. */
async function decided(options: DeadlinePrunerOptions, links: LinkStatistics, importance = IMPORTANCE) {
  const pruner = deadlinePruner({ warmupSteps: 1, ...options });
  const input = { loraNorm: null, baseNorm: null, embeddingMean: null, links };
  const [{ mask, figures }] = await pruner.decide(
    { ...input, step: 1, lastMask: new Uint8Array(12), gradientNorm: importance },
    pruner.init(CONTEXT),
    CONTEXT,
  );
  return { mask: mask.join("").replace(/(.{4})(?=.)/g, "$1 "), figures: figures! };
}

Deno.test("deadlinePruner() drops whole layers where latency rules", async () => {
  // A layer costs two round trips of 100 ms, its heads nothing to speak of: 0.6 s for three layers.
  const links = linksOf(0.1, 1e-6, 0.6);
  assertEquals((await decided({ secondsPerStep: 0.45 }, links)).mask, "0000 0000 1111");
  assertEquals((await decided({ secondsPerStep: 0.25 }, links)).mask, "0000 1111 1111");
  const { figures } = await decided({ secondsPerStep: 0.25 }, links);
  assertEquals([figures.headsGivenUp, figures.layersGivenUp], [8, 2]);
  // Importance is that of the gradients, from the smallest to the largest.
  assert(Math.abs(figures.importanceGivenUp! - 25 / 55) < 1e-6, `${figures.importanceGivenUp}`);
});

Deno.test("deadlinePruner() drops single heads where bandwidth rules", async () => {
  // A head costs 30 ms, and both devices answer at once: three layers with two heads of each device take 0.18 s.
  const links = linksOf(1e-6, 0.01, 0.18);
  const importance = Float32Array.of(9, 5, 3, 8, 2, 7, 6, 4, 9, 1, 7, 5);
  const { mask, figures } = await decided({ secondsPerStep: 0.1 }, links, importance);
  // In each layer one head of each device, for the time of one: the more important ones.
  assertEquals(mask, "0110 1001 0101");
  assertEquals([figures.headsGivenUp, figures.layersGivenUp], [6, 0]);
});

Deno.test("deadlinePruner() keeps to bytes, by single heads, and keeps one head whatever the budget", async () => {
  const links = linksOf(0.1, 1e-6, 0.6);
  // 12 heads of 2000 bytes and six times 432 are explained; 13,408 are not. The budget leaves 8,592 bytes.
  const { mask, figures } = await decided({ bytesPerStep: 22_000 }, links);
  assertEquals(mask.slice(4), " 1111 1111");
  assertEquals(mask.replaceAll(/[1 ]/g, "").length, 3);
  assert(figures.bytesExpected! <= 22_000, `${figures.bytesExpected}`);
  for (const options of [{ bytesPerStep: 1 }, { secondsPerStep: 1e-9 }]) {
    const { mask } = await decided(options, links);
    assert(mask.includes("0"), mask);
  }
});

Deno.test("deadlinePruner() refuses options that are none", () => {
  assertThrows(() => deadlinePruner({}), RangeError, "secondsPerStep or bytesPerStep");
  assertThrows(() => deadlinePruner({ secondsPerStep: 0 }), RangeError, "above 0");
  assertThrows(() => deadlinePruner({ bytesPerStep: 5, warmupSteps: 0 }), RangeError, "at least 1");
});

Deno.test("a knapsack of few options is as good as trying all", () => {
  let seed = 1;
  const random = () => (seed = Math.imul(seed, 48271) >>> 1) / 2 ** 31;
  for (let trial = 0; trial < 200; trial++) {
    const layers = Array.from({ length: 4 }, () =>
      Array.from({ length: 3 }, (_, i) => ({
        cost: (1 + Math.floor(9 * random())) / 20,
        value: Math.ceil(20 * random()),
        heads: [i],
      })));
    const sum = (values: readonly (number | undefined)[]) =>
      values.reduce<number>((all, value) => all + (value ?? 0), 0);
    const total = (chosen: readonly ({ readonly cost: number; readonly value: number } | null)[]) => ({
      cost: sum(chosen.map((o) => o?.cost)),
      value: sum(chosen.map((o) => o?.value)),
    });
    let best = 0;
    for (let code = 0; code < 4 ** 4; code++) {
      const picked = total(layers.map((options, l) => options[Math.floor(code / 4 ** l) % 4] ?? null));
      if (picked.cost <= 1 + 1e-9) best = Math.max(best, picked.value);
    }
    const found = total(chooseOptions(layers, 1));
    assertEquals(found.value, best);
    assert(found.cost <= 1 + 1e-9);
  }
});
