import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Pruner, PrunerContext, PrunerInput } from "@edgetuner/core/contracts";
import { randomStream } from "@edgetuner/core";
import { testPruner } from "../../tests/conformance/pruner_suite.ts";
import { dloraPruner, gradientPruner, greedyPruner, magnitudePruner, oraclePruner } from "../mod.ts";

testPruner({ name: "magnitude", create: () => magnitudePruner({ warmupSteps: 2 }) as Pruner });
testPruner({ name: "magnitude per layer", create: () => magnitudePruner({ scope: "layer" }) as Pruner });
testPruner({ name: "gradient", create: () => gradientPruner({ keep: 0.3, maxRest: 5 }) as Pruner });
testPruner({
  name: "gradient per layer, without return",
  create: () => gradientPruner({ scope: "layer", recovery: 0, maxRest: Infinity }) as Pruner,
});
testPruner({ name: "oracle", create: () => oraclePruner() as Pruner });
testPruner({ name: "dlora", create: () => dloraPruner({ warmupSteps: 3, period: 4 }) as Pruner });
testPruner({ name: "dlora, defaults", create: () => dloraPruner() as Pruner });

const NOTHING = { lastMask: null, gradientNorm: null, loraNorm: null, baseNorm: null, embeddingMean: null };
const CONTEXT: PrunerContext = { layers: 2, heads: 4, headsPerDevice: [4], capacities: [1], seed: 1 };
const SCORES = Float32Array.of(5, 6, 7, 8, 4, 1, 9, 2);

/** The mask of a decision as text, a layer a word. */
async function maskOf(pruner: Pruner, input: Partial<PrunerInput>, context = CONTEXT): Promise<string> {
  const [{ mask }] = await pruner.decide(
    { ...NOTHING, step: 30, ...input },
    pruner.init(context),
    context,
  );
  return mask.join("").replace(/(.{4})(?=.)/g, "$1 ");
}

Deno.test("pruners of a given share keep the most important heads, of the model or of each layer", async () => {
  for (
    const [create, input] of [
      [magnitudePruner, { loraNorm: SCORES }],
      [gradientPruner, { gradientNorm: SCORES, lastMask: new Uint8Array(8) }],
      [oraclePruner, { trueGradientNorm: SCORES }],
    ] as const
  ) {
    assertEquals(await maskOf(create({ keep: 0.5 }) as Pruner, input), "1000 1101");
    assertEquals(await maskOf(create({ keep: 0.5, scope: "layer" }) as Pruner, input), "1100 0101");
    assertEquals(await maskOf(create({ keep: 1 }) as Pruner, input), "0000 0000");
    assertEquals(await maskOf(create({ keep: 0.01 }) as Pruner, input), "1111 1101", "at least one head");
    assertEquals(await maskOf(create({ keep: 0.5 }) as Pruner, {}), "0000 0000", "nothing is known");
  }
});

Deno.test("warm-up: every head is kept in the first steps, though statistics are there", async () => {
  const magnitude = magnitudePruner({ warmupSteps: 3 }) as Pruner;
  const gradient = gradientPruner({ warmupSteps: 3 }) as Pruner;
  for (const [step, mask] of [[2, "0000 0000"], [3, "1000 1101"]] as const) {
    assertEquals(await maskOf(magnitude, { step, loraNorm: SCORES }), mask);
    assertEquals(await maskOf(gradient, { step, gradientNorm: SCORES, lastMask: new Uint8Array(8) }), mask);
  }
});

Deno.test("only the oracle is not deployable", () => {
  assertEquals(oraclePruner().deployable, false);
  for (const pruner of [dloraPruner(), gradientPruner(), greedyPruner(), magnitudePruner()]) {
    assert((pruner as Pruner).deployable !== false, pruner.name);
  }
});

Deno.test("factories refuse options out of range", () => {
  assertThrows(() => magnitudePruner({ keep: 0 }), RangeError, "current value is 0");
  assertThrows(() => oraclePruner({ keep: 1.5 }), RangeError, "current value is 1.5");
  assertThrows(() => magnitudePruner({ warmupSteps: -1 }), RangeError, "current value is -1");
  assertThrows(() => gradientPruner({ recovery: 2 }), RangeError, "current value is 2");
  assertThrows(() => gradientPruner({ maxRest: 0 }), RangeError, "current value is 0");
  assertThrows(() => gradientPruner({ scope: "head" as "layer" }), TypeError, 'current value is "head"');
  assertThrows(() => dloraPruner({ period: 0 }), RangeError, "current value is 0");
  assertThrows(() => dloraPruner({ activeFraction: 0 }), RangeError, "current value is 0");
  assertThrows(() => dloraPruner({ seed: -1 }), RangeError, "current value is -1");
  assertThrows(() => dloraPruner({ smoothing: "1" as unknown as number }), TypeError, "string");
});

/** A map of importances that stay, seen with noise, and 0 where a head was pruned. */
function observations(size: number): (mask: Uint8Array) => Float32Array {
  const draw = randomStream(5);
  const importance = Float32Array.from({ length: size }, () => draw.float() ** 2 + 0.05);
  return (mask) => importance.map((x, i) => mask[i] ? 0 : x * (0.5 + draw.float()));
}

/** Runs a pruner and returns its masks. */
async function simulate<S>(
  pruner: Pruner<S>,
  context: PrunerContext,
  steps: number,
  seen: (mask: Uint8Array, step: number) => Partial<PrunerInput>,
): Promise<Uint8Array[]> {
  const masks: Uint8Array[] = [];
  let state = pruner.init(context);
  let input: PrunerInput = { ...NOTHING, step: 0 };
  for (let step = 0; step < steps; step++) {
    const [{ mask }, next] = await pruner.decide(input, state, context);
    masks.push(mask.slice());
    state = next;
    input = { ...NOTHING, step: step + 1, lastMask: mask, ...seen(mask, step) };
  }
  return masks;
}

const kept = (mask: Uint8Array) => mask.reduce((n, z) => n + 1 - z, 0);

Deno.test("gradientPruner() keeps the same share in every step and lets every head come back in time", async () => {
  const context = { ...CONTEXT, layers: 6, heads: 8, headsPerDevice: [8] };
  const observe = observations(48);
  for (const recovery of [0, 0.1]) {
    const pruner = gradientPruner({ keep: 0.5, recovery, maxRest: 20 });
    const masks = await simulate(pruner, context, 200, (mask) => ({ gradientNorm: observe(mask) }));
    assertEquals(new Set(masks.slice(1).map(kept)), new Set([24]));
    for (let i = 0; i < 48; i++) {
      let longest = 0, rest = 0;
      for (const mask of masks) longest = Math.max(longest, rest = mask[i] ? rest + 1 : 0);
      // Several heads may be due at once, and 24 places are there for them.
      assert(longest <= 21, `head ${i} was away ${longest} steps`);
    }
  }
});

Deno.test("gradientPruner() holds what a pruned head showed, whatever the scale of later gradients", async () => {
  const pruner = gradientPruner({ keep: 0.5, recovery: 0, maxRest: Infinity });
  const importance = Float32Array.of(8, 7, 6, 5, 4, 3, 2, 1);
  const masks = await simulate(pruner, CONTEXT, 30, (mask, step) => ({
    gradientNorm: importance.map((x, i) => mask[i] ? 0 : x / (step + 1)), // gradients shrink over a run
  }));
  assertEquals(new Set(masks.slice(1).map((mask) => mask.join(""))), new Set(["00001111"]));
});

Deno.test("dloraPruner() kills what changes least after its warm-up, and keeps an exact share from then on", async () => {
  const context = { ...CONTEXT, layers: 4, heads: 4, headsPerDevice: [4] };
  const weightChange = Float32Array.from({ length: 16 }, (_, i) => (i * 7) % 16);
  const pruner = dloraPruner({ warmupSteps: 6, period: 5, activeFraction: 1 / 4, reviveFraction: 0 });
  const masks = await simulate(pruner, context, 30, (mask) => ({
    weightChange: weightChange.map((x, i) => mask[i] ? 0 : x),
  }));
  assertEquals(masks.slice(0, 6).map(kept), Array(6).fill(16));
  const most = Uint8Array.from(weightChange, (x) => x >= 12 ? 0 : 1);
  for (const mask of masks.slice(6)) assertEquals(mask, most);
});

Deno.test("dloraPruner() revives at random, for a period at least, and a revived head may stay", async () => {
  const context = { ...CONTEXT, layers: 6, heads: 8, headsPerDevice: [8] };
  const observe = observations(48);
  const options = { warmupSteps: 4, period: 5, activeFraction: 0.25, reviveFraction: 0.1 };
  const run = (seed?: number) =>
    simulate(dloraPruner({ ...options, seed }), context, 400, (mask) => ({ weightChange: observe(mask) }));
  const masks = await run();
  assertEquals(new Set(masks.slice(4).map(kept)), new Set([12]));
  for (let step = 4; step < 400; step++) {
    const changed = masks[step]!.some((z, i) => z !== masks[step - 1]![i]);
    if (changed) assertEquals((step - 4) % 5, 0, `heads change at kills only, not in step ${step}`);
  }
  const back = masks[9]!.filter((z, i) => z === 0 && masks[8]![i] === 1).length;
  assertEquals(back, 4, "0.1 of 36 killed heads");
  for (let i = 0; i < 48; i++) assert(masks.slice(9).some((mask) => mask[i] === 0), `head ${i} comes back`);
  // The draw depends on the seed alone.
  const other = await run(99);
  assert(masks.some((mask, step) => mask.some((z, i) => z !== other[step]![i])));
});

Deno.test("dloraPruner() judges a revived head by what it shows then, not by what it showed before", async () => {
  const context = { ...CONTEXT, layers: 1, heads: 4, headsPerDevice: [4] };
  const pruner = dloraPruner({ warmupSteps: 1, period: 3, activeFraction: 0.5, reviveFraction: 0.5 });
  // Head 0 changed least at first, and most once it is back.
  const seen = (mask: Uint8Array, step: number) => ({
    weightChange: Float32Array.of(step === 0 ? 0 : 9, 3, 2, 1).map((x, i) => mask[i] ? 0 : x),
  });
  const masks = await simulate(pruner, context, 60, seen);
  assertEquals(masks[1]!.join(""), "1001");
  const since = masks.findIndex((mask, step) => step > 1 && mask[0] === 0);
  assert(since > 0);
  for (const mask of masks.slice(since)) assertEquals(mask[0], 0, "head 0 stays");
});
