import { assertEquals, assertThrows } from "@std/assert";
import {
  comprehensiveImportance,
  deviceWeights,
  greedyPrune,
  minMaxNormalise,
  pruneLayers,
  smoothImportance,
} from "./importance.ts";

/** One case of the reference implementation. */
interface Case {
  readonly kind: string;
  readonly layers: number;
  readonly heads: number;
  readonly headsPerDevice: number[];
  readonly tau: number;
  readonly rho: number;
  readonly beta: number;
  readonly alpha: number;
  readonly sBase: number[][];
  readonly sCompInit: number[][];
  readonly pruned: number[][];
}

const cases: Case[] = JSON.parse(
  await Deno.readTextFile(new URL("../tests/fixtures/pruning/greedy_cases.json", import.meta.url)),
);

for (const [i, c] of cases.entries()) {
  Deno.test(`greedyPrune() decides case ${i} (${c.kind}) exactly as the reference`, () => {
    // The reference takes the number of heads for a device's capacity.
    const result = greedyPrune({
      ...c,
      sBase: Float32Array.from(c.sBase.flat()),
      capacities: c.headsPerDevice,
    });
    assertEquals([...result.mask], c.pruned.flat());
    assertEquals([...result.sComp], [...Float32Array.from(c.sCompInit.flat())]);
  });
}

Deno.test("the reference cases are all there", () => assertEquals(cases.length, 24));

Deno.test("minMaxNormalise() maps to [0, 1], flat maps to zeros, and leaves entries out", () => {
  assertEquals([...minMaxNormalise(Float32Array.of(1, 3, 2))], [0, 1, 0.5]);
  assertEquals([...minMaxNormalise(Float32Array.of(4, 4))], [0, 0]);
  assertEquals([...minMaxNormalise(Float32Array.of(9, 1, 3), Uint8Array.of(1, 0, 0))], [0, 0, 1]);
  assertThrows(() => minMaxNormalise(Float32Array.of(1, NaN)), RangeError, "entry 1 is NaN");
});

Deno.test("smoothImportance() weighs the newest step with lambda", () => {
  assertEquals([...smoothImportance(Float32Array.of(1, 0), null, 0.8)], [1, 0]);
  assertEquals([...smoothImportance(Float32Array.of(1, 0), Float32Array.of(0, 1), 0.75)], [0.75, 0.25]);
  assertThrows(() => smoothImportance(Float32Array.of(1), null, 1.1), RangeError, "current value is 1.1");
});

Deno.test("comprehensiveImportance() counts weak devices less and lost heads more", () => {
  const options = { headsPerDevice: [2, 2], capacities: [4, 1], alpha: 2, rho: 1, beta: 1 };
  assertEquals(deviceWeights(options)[0]!.length, 3);
  const before = comprehensiveImportance(Float32Array.of(1, 1, 1, 1), options);
  assertEquals([...before], [...Float32Array.of(1.6, 1.6, 0.4, 0.4)]);
  const after = comprehensiveImportance(Float32Array.of(1, 1, 1, 1), options, [0, 1]);
  assertEquals([...after], [...Float32Array.of(1.6, 1.6, 0.6, 0.6)]);
});

Deno.test("pruneLayers() prunes a layer whole above eta, not at it", () => {
  const mask = Uint8Array.of(1, 1, 0, 0, 0, 1, 1, 1, 0, 0);
  assertEquals([...pruneLayers(mask, { heads: 5, eta: 0.4 })], [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]);
  assertEquals([...pruneLayers(mask, { heads: 5, eta: 1 })], [...mask]);
  assertThrows(() => pruneLayers(mask, { heads: 3, eta: 0.4 }), TypeError, "multiple of 3");
});
