import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  initialPredictor,
  type Predictor,
  predictorTrainer,
  type PrunerSample,
  randomStream,
} from "@edgetuner/core";
import type { Pruner, PrunerContext, PrunerInput } from "@edgetuner/core/contracts";
import { engineOf } from "../../tests/support/kernels.ts";
import { testPruner } from "../../tests/conformance/pruner_suite.ts";
import { collectingPruner, greedyPruner, iHeadPruner } from "../mod.ts";

const SIZES = { history: 4, lambda: 0.8, width: 16, channels: 2, fusion: 4 };

/** A predictor whose corrections are not zero. */
function anyPredictor({ layers, heads }: Pick<PrunerContext, "layers" | "heads">, headSize = 4): Predictor {
  const start = initialPredictor({ ...SIZES, layers, heads, hidden: heads * headSize }, 3);
  const random = randomStream(9);
  const bias = start.weights["output.down.bias"]!.map(() => 2 * random.float() - 1);
  const maps = start.weights["maps.last.weight"]!.map(() => random.float() - 0.5);
  return { ...start, weights: { ...start.weights, "output.down.bias": bias, "maps.last.weight": maps } };
}

/** A predictor is made for one shape: for each shape of the suite its own. */
function ofAnyShape(): Pruner {
  const pruners = new Map<string, Pruner>();
  const of = (context: PrunerContext) => {
    const key = `${context.layers} ${context.heads}`;
    let pruner = pruners.get(key);
    if (pruner === undefined) {
      pruner = iHeadPruner({ predictor: anyPredictor(context), warmupSteps: 2 }) as Pruner;
      pruners.set(key, pruner);
    }
    return pruner;
  };
  return {
    ...of({ layers: 1, heads: 1, headsPerDevice: [1], capacities: [1], seed: 0 }),
    init: (context) => of(context).init(context),
    decide: (input, state, context) => of(context).decide(input, state, context),
  };
}

testPruner({ name: "ihead", create: ofAnyShape });

// Trained once in 20 steps, with as little as can be told from no training.
const engine = await engineOf("software");
const train = predictorTrainer(engine, { epochs: 1, batch: 64 });
testPruner({
  name: "ihead, online",
  slow: true,
  create: () =>
    iHeadPruner({ history: 4, warmupSteps: 1, online: { train, steps: 12, refresh: 20 } }) as Pruner,
});

const CONTEXT: PrunerContext = { layers: 2, heads: 4, headsPerDevice: [3, 1], capacities: [3, 1], seed: 1 };
const SIZE = 8;

/** Runs a pruner on gradients that are the same in every step but for noise. */
async function run(pruner: Pruner, steps: number, context = CONTEXT) {
  const draw = randomStream(5);
  const importance = Float32Array.of(0.9, 0.1, 0.6, 0.2, 0.3, 1, 0.05, 0.5);
  let state = pruner.init(context);
  let lastMask: Uint8Array | null = null;
  const masks: Uint8Array[] = [];
  for (let step = 0; step < steps; step++) {
    const noise = () => 0.8 + 0.4 * draw.float();
    const gradients = importance.map((x) => x * noise());
    const input: PrunerInput = {
      step,
      lastMask,
      gradientNorm: step === 0 ? null : gradients.map((g, i) => lastMask?.[i] ? 0 : g),
      loraNorm: gradients.map((g) => g * step),
      baseNorm: importance.slice(),
      embeddingMean: Float32Array.from({ length: 16 }, () => draw.float()),
    };
    const [{ mask }, next] = await pruner.decide(input, state, context);
    masks.push(mask.slice());
    state = structuredClone(next);
    lastMask = mask;
  }
  return { masks, state };
}

const kept = (masks: readonly Uint8Array[]) =>
  Array.from({ length: SIZE }, (_, i) => masks.filter((mask) => mask[i] === 0).length / masks.length);

Deno.test("iHeadPruner() with an untrained predictor decides as greedyPruner()", async () => {
  const predictor = initialPredictor({ ...SIZES, layers: 2, heads: 4, hidden: 16 }, 1);
  const rules = { tau: 0.8, eta: 0.6, warmupSteps: 3 };
  const { masks } = await run(iHeadPruner({ predictor, ...rules }) as Pruner, 40);
  const greedy = await run(greedyPruner({ ...rules, history: 4 }) as Pruner, 40);
  assert(masks.some((mask) => mask.includes(1)));
  assertEquals(masks, greedy.masks);
});

Deno.test("iHeadPruner() follows its predictor, and a pruned head comes back", async () => {
  const start = initialPredictor({ ...SIZES, layers: 2, heads: 4, hidden: 16 }, 1);
  // The predictor thinks the opposite of what the gradients show.
  const bias = Float32Array.of(-6, 6, -6, 6, 6, -6, 6, 6);
  const predictor = { ...start, weights: { ...start.weights, "output.down.bias": bias } };
  const { masks } = await run(iHeadPruner({ predictor, eta: 1, warmupSteps: 4, maxRest: 7 }) as Pruner, 100);
  assert(masks.slice(0, 4).every((mask) => !mask.includes(1)));
  const share = kept(masks.slice(4));
  for (const i of [0, 2, 5]) assert(share[i]! < 0.3 && share[i]! > 0.05, `head ${i} was kept ${share[i]}`);
  // Heads 3 and 7 are on the weaker device: of the important ones they go first.
  for (const i of [1, 4, 6]) assert(share[i]! > 0.8, `head ${i} was kept ${share[i]}`);
});

Deno.test("iHeadPruner() online prunes nothing before its training, then trains again, the same way each time [slow]", async () => {
  const requests: number[] = [];
  const counting: typeof train = async (request) => {
    requests.push(request.run.length);
    assert(request.run.every((step) => step.embedding !== null && step.loraNorm !== null));
    // The first training begins with a new predictor, later ones with the last.
    const fresh = request.start.weights["embedding.scale"]!.every((x) => x === 1);
    assertEquals(fresh, requests.length % 3 === 1);
    return await train(request);
  };
  const create = () =>
    iHeadPruner({
      history: 4,
      eta: 1,
      tau: 0.8,
      online: { train: counting, steps: 20, refresh: 15 },
    }) as Pruner;
  const first = await run(create(), 60);
  assertEquals(requests, [20, 20, 20]);
  // Gradients of step 19 are known at step 20.
  assert(first.masks.slice(0, 20).every((mask) => !mask.includes(1)));
  assert(first.masks[20]!.includes(1));
  assertEquals(await run(create(), 60), first);
  // The least important head of each layer goes first, and none for good.
  const share = kept(first.masks.slice(20));
  assert(share[1]! < share[0]! && share[6]! < share[5]! && share.every((x) => x > 0), `${share}`);
});

Deno.test("iHeadPruner() refuses a predictor of another shape, and options that do not fit it", async () => {
  const predictor = anyPredictor(CONTEXT);
  const pruner = iHeadPruner({ predictor, warmupSteps: 0 });
  assertThrows(
    () => pruner.init({ ...CONTEXT, layers: 3 }),
    RangeError,
    "a model of 3 layers and 4 heads: it was",
  );
  const input = {
    step: 1,
    lastMask: null,
    gradientNorm: Float32Array.from({ length: SIZE }, (_, i) => i),
    loraNorm: null,
    baseNorm: null,
    embeddingMean: new Float32Array(12),
  };
  await assertRejects(
    async () => await pruner.decide(input, pruner.init(CONTEXT), CONTEXT),
    RangeError,
    "hidden size 12",
  );
  // In the first step, not once the warm-up is over.
  const patient = iHeadPruner({ predictor, warmupSteps: 5 });
  await assertRejects(
    async () => await patient.decide({ ...input, step: 0 }, patient.init(CONTEXT), CONTEXT),
    RangeError,
    "a model of 2 layers, 4 heads and hidden size 12: it was trained for 2 layers, 4 heads and hidden size",
  );
  assertThrows(() => iHeadPruner({ predictor, history: 5 }), RangeError, '"history" must be that of');
  assertThrows(() => iHeadPruner({ predictor, lambda: 0.5 }), RangeError, '"lambda" must be that of');
  assertThrows(() => iHeadPruner({ predictor, tau: 2 }), RangeError, "create the iHead pruner");
  assertThrows(() => iHeadPruner({}), TypeError, "neither is");
  assertThrows(() => iHeadPruner({ predictor, online: { train } }), TypeError, "both are");
  assertThrows(() => iHeadPruner({ online: { train, steps: 20 } }), RangeError, "at least 24");
  assertThrows(
    () => iHeadPruner({ online: { train, refresh: 0 } }),
    RangeError,
    "positive integer or Infinity",
  );
});

testPruner({ name: "collecting", create: () => collectingPruner({ write: () => {} }) as Pruner });

Deno.test("collectingPruner() hands on each step with its own gradients", async () => {
  const samples: PrunerSample[] = [];
  const pruner = collectingPruner({ write: (sample) => void samples.push(sample) });
  const map = (value: number) => new Float32Array(SIZE).fill(value);
  let state = pruner.init(CONTEXT);
  for (let step = 0; step < 6; step++) {
    const input = {
      step,
      lastMask: step === 0 ? null : step === 4 ? new Uint8Array(SIZE).fill(1) : new Uint8Array(SIZE),
      gradientNorm: step === 0 ? null : map(10 + step - 1), // of the step before
      loraNorm: step === 0 ? null : map(20 + step),
      baseNorm: null,
      embeddingMean: map(30 + step),
    };
    [, state] = await pruner.decide(input, state, CONTEXT);
  }
  // Step 0 has no LoRA norms, step 3 was pruned, step 5 has not shown its gradients yet.
  assertEquals(samples.map((s) => [s.step, s.gradientNorm[0], s.loraNorm[0], s.embeddingMean[0], s.seed]), [
    [1, 11, 21, 31, 1],
    [2, 12, 22, 32, 1],
    [4, 14, 24, 34, 1],
  ]);
});
