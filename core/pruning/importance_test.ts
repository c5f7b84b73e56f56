import {
  comprehensiveImportance,
  deviceWeights,
  greedyPrune,
  type GreedyPruneOptions,
  minMaxNormalise,
  pruneLayers,
  smoothImportance,
} from "./importance.ts";
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";

/** One case of the reference implementation. */
interface Case {
  seed: number;
  kind: string;
  layers: number;
  heads: number;
  headsPerDevice: number[];
  tau: number;
  rho: number;
  beta: number;
  alpha: number;
  sBase: number[][];
  sCompInit: number[][];
  pruned: number[][];
}

const CASES: Case[] = JSON.parse(
  await Deno.readTextFile(new URL("../../tests/fixtures/pruning/greedy_cases.json", import.meta.url)),
);

function optionsOf(c: Case): GreedyPruneOptions {
  return { ...c, sBase: Float32Array.from(c.sBase.flat()), capacities: c.headsPerDevice };
}

const ONE_LAYER = { layers: 1, heads: 4, headsPerDevice: [2, 2], capacities: [1, 1] } as const;

Deno.test("greedyPrune() decides as the reference implementation, bit for bit", () => {
  assertEquals(CASES.length, 24);
  for (const c of CASES) {
    const { mask, sComp } = greedyPrune(optionsOf(c));
    assertEquals([...mask], c.pruned.flat(), `mask of case ${c.seed}`);
    assertEquals([...sComp], c.sCompInit.flat(), `S_comp of case ${c.seed}`);
  }
});

Deno.test("greedyPrune() never decides within a rounding error of the reference cases' limit", () => {
  let nearest = Infinity;
  for (const c of CASES) {
    c.sBase.forEach((s, l) => {
      const full = s.reduce((a, b) => a + b, 0);
      const kept = s.filter((_, h) => c.pruned[l]![h] === 0).reduce((a, b) => a + b, 0);
      nearest = Math.min(nearest, Math.abs(kept - c.tau * full) / full);
    });
  }
  // otherwise the reference cases would hold for one order of the sums alone
  assert(nearest > 2 ** -17, `nearest: ${nearest}`);
});

Deno.test("greedyPrune() stops at the limit, not below it", () => {
  const { mask } = greedyPrune({ ...ONE_LAYER, sBase: Float32Array.of(1, 1, 1, 1), tau: 0.5 });
  assertEquals(mask.reduce((n, z) => n + z, 0), 2); // 2 > 2 does not hold
});

Deno.test("greedyPrune() prunes the first head on ties and spares a device that has lost heads", () => {
  const sBase = Float32Array.of(1, 1, 1, 1);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase, tau: 0.5 }).mask], [1, 0, 1, 0]);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase, tau: 0.5, beta: 0 }).mask], [1, 1, 0, 0]);
});

Deno.test("greedyPrune() prunes a weak device's heads first", () => {
  const options = { ...ONE_LAYER, sBase: Float32Array.of(1, 1, 1.01, 1.01), tau: 0.8 };
  assertEquals([...greedyPrune(options).mask], [1, 0, 0, 0]);
  assertEquals([...greedyPrune({ ...options, capacities: [2, 1] }).mask], [0, 0, 1, 0]);
  assertEquals([...greedyPrune({ ...options, capacities: [2, 1], rho: 0 }).mask], [1, 0, 0, 0]);
});

Deno.test("greedyPrune() prunes nothing with tau = 1 or in a layer of zeros, all of the rest with tau = 0", () => {
  const sBase = Float32Array.of(0, 0.5, 1, 0.25);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase, tau: 1 }).mask], [0, 0, 0, 0]);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase, tau: 0 }).mask], [1, 1, 1, 1]);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase: new Float32Array(4), tau: 0 }).mask], [0, 0, 0, 0]);
});

Deno.test("greedyPrune() decides each layer on its own", () => {
  const a = [0.1, 0.2, 0.9, 0.4], b = [0.5, 0.01, 0.02, 0.6];
  const decide = (sBase: number[], layers: number) => [
    ...greedyPrune({ ...ONE_LAYER, layers, sBase: Float32Array.from(sBase) }).mask,
  ];
  assertEquals(decide([...a, ...b], 2), [...decide(a, 1), ...decide(b, 1)]);
});

Deno.test("greedyPrune() ends where float32 overflows", () => {
  const sBase = new Float32Array(4).fill(3.4e38);
  assertEquals([...greedyPrune({ ...ONE_LAYER, sBase }).mask], [0, 0, 0, 0]);
  greedyPrune({ ...ONE_LAYER, sBase: Float32Array.of(1.6e38, 1.6e38, 0, 0), tau: 0, alpha: 1e30 });
});

Deno.test("greedyPrune() uses the documented defaults", () => {
  const sBase = Float32Array.from({ length: 24 }, (_, i) => (i * 7 % 24) / 24);
  const devices = { layers: 2, heads: 12, headsPerDevice: [7, 4, 1], capacities: [3, 2, 1], sBase };
  assertEquals(greedyPrune(devices), greedyPrune({ ...devices, alpha: 1, rho: 0.2, beta: 0.3, tau: 0.7 }));
});

Deno.test("greedyPrune() throws on arguments out of range", () => {
  const sBase = Float32Array.of(1, 1, 1, 1);
  const options = { ...ONE_LAYER, sBase };
  const range: [Partial<GreedyPruneOptions>, string][] = [
    [{ tau: 1.5 }, `"tau" must be between 0 and 1: current value is 1.5`],
    [{ tau: NaN }, `"tau" must be between 0 and 1: current value is NaN`],
    [{ rho: -1 }, `"rho" must be finite and not negative: current value is -1`],
    [{ beta: Infinity }, `"beta" must be finite and not negative`],
    [{ alpha: 0 }, `"alpha" must be positive and finite: current value is 0`],
    [{ layers: 0 }, `"layers" must be a positive integer`],
    [{ heads: 1.5 }, `"heads" must be a positive integer`],
    [{ headsPerDevice: [2, 1] }, `"headsPerDevice" must sum to 4 heads: current value is [2,1]`],
    [{ headsPerDevice: [2.5, 1.5] }, `"headsPerDevice" must be integers`],
    [{ capacities: [1, 0] }, `"capacities" must be positive and finite: current value is 0`],
    [{ sBase: Float32Array.of(1, -1, 1, 1) }, `must be finite and not negative: entry 1 is -1`],
    [{ sBase: Float32Array.of(1, 1, NaN, 1) }, `must be finite and not negative: entry 2 is NaN`],
  ];
  for (const [wrong, message] of range) {
    assertThrows(() => greedyPrune({ ...options, ...wrong }), RangeError, message);
  }
  assertThrows(
    () => greedyPrune({ ...options, layers: 2 }),
    TypeError,
    "8 entries: current value is length 4",
  );
  assertThrows(() => greedyPrune({ ...options, capacities: [1] }), TypeError, "current lengths are 1 and 2");
  const text = { tau: "0.7" as unknown as number };
  assertThrows(() => greedyPrune({ ...options, ...text }), TypeError, `"tau" must be a number`);
});

Deno.test("deviceWeights() is Eq. 29 without S_base, rounded once", () => {
  const weights = deviceWeights({
    headsPerDevice: [3, 1, 0],
    capacities: [2, 1, 1],
    alpha: 2,
    rho: 0.5,
    beta: 0.3,
  });
  assertEquals(weights.map((w) => w.length), [4, 2, 1]);
  assertEquals(weights[0]![0], Math.fround(2 * Math.sqrt(0.5)));
  assertEquals(weights[0]![2], Math.fround(2 * Math.sqrt(0.5) * (1 + 0.3 * 2 / 3)));
  assertEquals(weights[1]![1], Math.fround(2 * 0.5 * 1.3));
  assertEquals(weights[2]![0], 1);
});

Deno.test("comprehensiveImportance() counts the heads that a device has lost in a layer", () => {
  const options = { headsPerDevice: [3, 1], capacities: [3, 1], rho: 0.2, beta: 0.3 };
  const sBase = Float32Array.of(0.5, 0.25, 1, 0.75, 0.5, 0.25, 1, 0.75);
  const plain = comprehensiveImportance(sBase, options);
  const lost = comprehensiveImportance(sBase, options, [0, 0, 2, 1]);
  assertEquals(lost.slice(0, 4), plain.slice(0, 4));
  for (let h = 0; h < 3; h++) assertAlmostEquals(lost[4 + h]!, plain[4 + h]! * 1.2, 1e-6);
  assertAlmostEquals(lost[7]!, plain[7]! * 1.3, 1e-6);
  assertThrows(
    () => comprehensiveImportance(sBase, options, [0, 2, 0, 0]),
    RangeError,
    "cannot lose more heads than its 1: current value is 2",
  );
  assertThrows(() => comprehensiveImportance(sBase, options, [0]), TypeError, "must have 4 entries");
  assertThrows(() => comprehensiveImportance(sBase.slice(1), options), TypeError, "8 entries");
});

Deno.test("minMaxNormalise() maps to [0, 1], a flat map to zeros", () => {
  assertEquals([...minMaxNormalise(Float32Array.of(-1, 3, 1))], [0, 1, 0.5]);
  assertEquals([...minMaxNormalise(Float32Array.of(7, 7, 7))], [0, 0, 0]);
  assertEquals([...minMaxNormalise(Float32Array.of(7))], [0]);
  assertEquals([...minMaxNormalise(new Float32Array(0))], []);
  assertEquals([...minMaxNormalise(Float32Array.of(-3e38, 3e38, 0))], [0, 1, 0.5]);
  assertEquals([...minMaxNormalise(Float32Array.of(0, 1e-44))], [0, 1]);
});

Deno.test("minMaxNormalise() does not look at what is left out", () => {
  const map = Float32Array.of(0, 4, NaN, 2, 3);
  assertEquals([...minMaxNormalise(map, Uint8Array.of(1, 0, 1, 0, 0))], [0, 1, 0, 0, 0.5]);
  assertEquals([...minMaxNormalise(map, new Uint8Array(5).fill(1))], [0, 0, 0, 0, 0]);
  assertThrows(() => minMaxNormalise(map), RangeError, "entry 2 is NaN");
  assertThrows(() => minMaxNormalise(map, new Uint8Array(4)), TypeError, "current length is 4");
});

Deno.test("smoothImportance() weighs the newest step with lambda", () => {
  const g = Float32Array.of(1, 0), before = Float32Array.of(0.5, 1);
  const s = smoothImportance(g, before, 0.8);
  assertAlmostEquals(s[0]!, 0.9, 1e-7);
  assertAlmostEquals(s[1]!, 0.2, 1e-7);
  assertEquals(smoothImportance(g, before, 1), g);
  assertEquals(smoothImportance(g, before, 0), before);
  const first = smoothImportance(g, null, 0.8);
  assertEquals(first, g);
  assert(first !== g);
  assertThrows(() => smoothImportance(g, before, 1.1), RangeError, `"lambda" must be between 0 and 1`);
  assertThrows(() => smoothImportance(g, before.slice(1), 0.8), TypeError, "current length is 1");
});

Deno.test("pruneLayers() prunes a layer whole strictly above eta", () => {
  const mask = Uint8Array.of(0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0);
  const copy = mask.slice();
  assertEquals([...pruneLayers(mask, { heads: 5, eta: 0.4 })], [...mask.slice(0, 10), 1, 1, 1, 1, 1]);
  assertEquals(pruneLayers(mask, { heads: 5, eta: 1 }), mask);
  assertEquals([...pruneLayers(mask, { heads: 5, eta: 0 })], [
    ...new Array(5).fill(0),
    ...new Array(10).fill(1),
  ]);
  assertEquals(mask, copy);
  assertThrows(() => pruneLayers(mask, { heads: 5, eta: 2 }), RangeError, `"eta" must be between 0 and 1`);
  assertThrows(() => pruneLayers(mask, { heads: 4, eta: 0.4 }), TypeError, "multiple of 4 heads");
});
