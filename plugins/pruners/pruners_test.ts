import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Pruner, PrunerContext, PrunerInput } from "@edgetuner/core/contracts";
import { randomStream } from "@edgetuner/core";
import { budgetPruner, greedyPruner, heldPruner, noPruner, randomPruner } from "../mod.ts";
import { testPruner } from "../../tests/conformance/pruner_suite.ts";

testPruner({ name: "none", create: () => noPruner() as Pruner });
testPruner({ name: "random", create: () => randomPruner({ share: 0.4 }) as Pruner });
testPruner({ name: "greedy", create: () => greedyPruner({ warmupSteps: 2 }) as Pruner });
testPruner({ name: "greedy, defaults", create: () => greedyPruner() as Pruner });
testPruner({
  name: "greedy as published",
  create: () => greedyPruner({ warmupSteps: 1, recovery: 0, maxRest: Infinity, maxLayerShare: 1 }) as Pruner,
});

testPruner({
  name: "budget",
  create: () =>
    budgetPruner({ pruner: greedyPruner({ warmupSteps: 1 }), keep: 0.5, warmupSteps: 2 }) as Pruner,
});

testPruner({
  name: "held",
  create: () => heldPruner({ pruner: greedyPruner({ warmupSteps: 2 }), every: 4 }) as Pruner,
});

const nothing = { lastMask: null, gradientNorm: null, loraNorm: null, baseNorm: null, embeddingMean: null };

Deno.test("heldPruner() takes over every n-th decision, and holds nothing while every head is kept", async () => {
  const context = { layers: 1, heads: 8, headsPerDevice: [8], capacities: [1], seed: 9 };
  const random = randomPruner({ share: 0.5 });
  const late: Pruner<null> = {
    ...random,
    decide: (input, state, context) =>
      input.step < 3 ? [{ mask: new Uint8Array(8) }, state] : random.decide(input, state, context),
  };
  const pruner = heldPruner({ pruner: late, every: 4 });
  let state = pruner.init(context);
  for (let step = 0; step < 12; step++) {
    const [{ mask }, next] = await pruner.decide({ ...nothing, step }, state, context);
    state = next;
    const from = step < 3 ? step : 3 + 4 * Math.floor((step - 3) / 4);
    const [expected] = await late.decide({ ...nothing, step: from }, null, context);
    assertEquals(mask, expected.mask, `step ${step}`);
  }
  assertThrows(() => heldPruner({ pruner: random, every: 0 }), RangeError, "positive integer");
});

Deno.test("randomPruner() prunes the share it was given, other heads in other steps", async () => {
  const context = { layers: 5, heads: 8, headsPerDevice: [8], capacities: [1], seed: 9 };
  const pruner = randomPruner({ share: 0.3 });
  const masks = [];
  for (let step = 0; step < 6; step++) {
    const [{ mask }] = await pruner.decide({ ...nothing, step }, null, context);
    assertEquals(mask.reduce((n, z) => n + z, 0), 12);
    masks.push(mask.join(""));
  }
  assertEquals(new Set(masks).size, 6);
});

Deno.test("budgetPruner() keeps the highest scores of another pruner, as many as the budget allows", async () => {
  const context = { layers: 2, heads: 3, headsPerDevice: [2, 1], capacities: [2, 1], seed: 0 };
  const scores = Float32Array.of(3, 1, 2, 6, 5, 4);
  const scored: Pruner = {
    name: "scored",
    needs: ["loraNorm"],
    init: () => 0,
    decide: (_, state) => [{ mask: new Uint8Array(6), scores }, state],
  };
  const masks = async (keep: number, warmupSteps: number) => {
    const pruner = budgetPruner({ pruner: scored, keep, warmupSteps });
    assertEquals(pruner.needs, ["loraNorm"]);
    const at = async (step: number) =>
      [...(await pruner.decide({ ...nothing, step }, pruner.init(context), context))[0].mask].join("");
    return [await at(0), await at(1)];
  };
  assertEquals(await masks(0.5, 0), ["111000", "111000"]);
  assertEquals(await masks(4 / 6, 1), ["000000", "011000"]);
  assertEquals(await masks(0, 0), ["111111", "111111"]);
  assertEquals(await masks(1, 0), ["000000", "000000"]);
  // Without scores there is nothing to choose by.
  const blind = budgetPruner({ pruner: noPruner(), keep: 0.5 });
  const [{ mask }] = await blind.decide({ ...nothing, step: 3 }, null, context);
  assertEquals([...mask], [0, 0, 0, 0, 0, 0]);
});

Deno.test("budgetPruner() counts what a mask costs, and may put the other pruner's choice first", async () => {
  const context = { layers: 2, heads: 3, headsPerDevice: [2, 1], capacities: [2, 1], seed: 0 };
  const scored: Pruner = {
    name: "scored",
    needs: [],
    init: () => null,
    decide: () => [{
      mask: Uint8Array.of(0, 1, 0, 1, 1, 1),
      scores: Float32Array.of(3, 1, 2, 6, 5, 4),
    }, null],
  };
  // 1 for each head, and 2 more for each device that is asked in a layer: 14 in all.
  const cost = (mask: Uint8Array) => {
    let sum = 0;
    for (const layer of [mask.subarray(0, 3), mask.subarray(3)]) {
      const [first, second] = [2 - layer[0]! - layer[1]!, 1 - layer[2]!];
      sum += first + second + (first > 0 ? 2 : 0) + (second > 0 ? 2 : 0);
    }
    return sum;
  };
  const mask = async (budget: number, keptFirst: boolean) => {
    const pruner = budgetPruner({ pruner: scored, keep: (budget + 0.5) / 14.5, cost, keptFirst });
    return [...(await pruner.decide({ ...nothing, step: 0 }, null, context))[0].mask].join("");
  };
  assertEquals(await mask(4, false), "111001");
  assertEquals(await mask(6, false), "111001");
  assertEquals(await mask(7, false), "111000");
  // The fifth best head would cost 3, the last one 1.
  assertEquals(await mask(11, false), "001000");
  assertEquals(await mask(6, true), "010111");
  assertEquals(await mask(7, true), "000111");
  assertEquals(await mask(14, true), "000000");
});

Deno.test("noPruner() keeps every head", async () => {
  const context = { layers: 2, heads: 3, headsPerDevice: [3], capacities: [1], seed: 0 };
  const [{ mask }] = await noPruner().decide({ ...nothing, step: 4 }, null, context);
  assertEquals([...mask], [0, 0, 0, 0, 0, 0]);
});

Deno.test("pruner factories refuse options out of range", () => {
  assertThrows(() => randomPruner({ share: 1.5 }), RangeError, "current value is 1.5");
  assertThrows(() => greedyPruner({ tau: -1 }), RangeError, "current value is -1");
  assertThrows(() => greedyPruner({ eta: 2 }), RangeError, "current value is 2");
  assertThrows(
    () => budgetPruner({ pruner: noPruner(), keep: 1.2 }),
    RangeError,
    "current value is 1.2",
  );
  assertThrows(() => greedyPruner({ history: 0 }), RangeError, "current value is 0");
});

/** 200 steps with persistent importances and noise, as gradients have them. */
async function simulate(pruner: Pruner, context: PrunerContext) {
  const size = context.layers * context.heads;
  const draw = randomStream(5);
  const importance = Float32Array.from({ length: size }, () => draw.float() ** 2 + 0.05);
  let state = pruner.init(context);
  let input: PrunerInput = { ...nothing, step: 0 };
  const kept = new Uint32Array(size);
  const shares: number[] = [];
  for (let step = 0; step < 200; step++) {
    const [{ mask }, next] = await pruner.decide({ ...input, step }, state, context);
    state = next;
    mask.forEach((z, i) => kept[i]! += 1 - z);
    shares.push(1 - mask.reduce((n, z) => n + z, 0) / size);
    const gradientNorm = importance.map((x, i) => mask[i] ? 0 : x * (0.5 + draw.float()));
    input = { ...nothing, step: step + 1, lastMask: mask, gradientNorm };
  }
  return { kept, shares };
}

Deno.test("greedyPruner() prunes a stable share and lets every head come back", async () => {
  for (const headsPerDevice of [[4, 3, 1], [8, 5, 3], [16]]) {
    const heads = headsPerDevice.reduce((a, b) => a + b, 0);
    const context = { layers: 6, heads, headsPerDevice, capacities: headsPerDevice, seed: 1 };
    const { kept, shares } = await simulate(greedyPruner() as Pruner, context);
    const mean = (from: number, to: number) =>
      shares.slice(from, to).reduce((a, b) => a + b, 0) / (to - from);
    assertEquals(mean(0, 10), 1, "every head is kept in the first steps");
    assert(Math.min(...kept) >= 15, `a head was kept in ${Math.min(...kept)} of 200 steps only`);
    const [early, late] = [mean(20, 110), mean(110, 200)];
    assert(late > 0.3 && late < 0.95, `share kept at the end: ${late}`);
    assert(Math.abs(early - late) < 0.15, `share kept drifts from ${early} to ${late}`);
  }
});

Deno.test("greedyPruner() prunes the least important layers whole, within its bound, and empties no other", async () => {
  const context = { layers: 4, heads: 5, headsPerDevice: [5], capacities: [1], seed: 1 };
  // Layer 0 loses all its heads to Eq. 30 and layer 3 four of five; layers 1 and 2 stay at eta.
  const gradientNorm = Float32Array.from([
    [10, 0.5, 0.5, 0.5, 0.5],
    [5, 5, 5, 5, 5],
    [5, 5, 5, 5, 5],
    [1, 0.9, 0.1, 0.1, 0.1],
  ].flat());
  const input = { ...nothing, step: 1, lastMask: new Uint8Array(20), gradientNorm };
  const layersOf = async (maxLayerShare: number) => {
    const pruner = greedyPruner({ warmupSteps: 1, maxLayerShare });
    const [{ mask }] = await pruner.decide(input, pruner.init(context), context);
    return [0, 1, 2, 3].map((l) => mask.slice(l * 5, l * 5 + 5).join(""));
  };
  assertEquals(await layersOf(0), ["01111", "11000", "11000", "01111"]);
  assertEquals(await layersOf(0.25), ["01111", "11000", "11000", "11111"]);
  assertEquals(await layersOf(1), ["11111", "11000", "11000", "11111"]);
});
