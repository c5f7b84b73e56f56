import { assertEquals, assertRejects } from "@std/assert";
import { engineOf, normal, testForms } from "../../tests/support/kernels.ts";
import { greedyPruneReference } from "./greedy_reference.ts";
import { greedyPruneOnGpu } from "./pruning.ts";

const SHAPES = [[1, 1], [2, 3], [13, 12], [9, 25], [5, 128]] as const;

testForms("greedyPruneOnGpu() decides like the reference, bit for bit", async (engine) => {
  const splits = {
    1: [[1]],
    3: [[3], [1, 2]],
    12: [[5, 4, 3]],
    25: [[13, 0, 11, 1]],
    128: [[64, 40, 24]],
  } as const;
  let seed = 100;
  for (const [layers, heads] of SHAPES) {
    for (const headsPerDevice of splits[heads]) {
      for (
        const [tau, rho, beta, eta] of [[0.7, 0.2, 0.3, 1], [0.3, 1, 0.9, 1], [0, 0, 0, 1], [
          0.9,
          0.2,
          0.3,
          0.4,
        ]]
      ) {
        const uniform = normal(layers * heads, seed++).map(Math.abs);
        const maps = {
          uniform,
          // Many equal values: ties.
          stepped: uniform.map((x) => Math.floor(x * 4) / 4),
          zero: new Float32Array(layers * heads),
        };
        for (const [name, sBase] of Object.entries(maps)) {
          const args = {
            layers,
            heads,
            sBase,
            headsPerDevice,
            capacities: headsPerDevice.map((n) => n + 1),
            ...{ tau: tau!, rho: rho!, beta: beta!, eta: eta! },
          };
          const actual = await greedyPruneOnGpu(engine, args);
          assertEquals(
            actual,
            greedyPruneReference(args),
            `${name} [${layers}, ${heads}] over [${headsPerDevice}]`,
          );
        }
      }
    }
  }
});

testForms("greedyPruneOnGpu() prunes a layer whole above eta, not at it", async (engine) => {
  const args = { layers: 2, heads: 4, headsPerDevice: [4], capacities: [1], tau: 0.5 };
  // Layer 0 loses two of four heads, layer 1 three.
  const sBase = Float32Array.of(1, 1, 1, 1, 0.1, 0.1, 0.1, 0.2);
  assertEquals(
    (await greedyPruneOnGpu(engine, { ...args, sBase })).mask,
    Uint8Array.of(1, 1, 0, 0, 1, 1, 1, 0),
  );
  const at = await greedyPruneOnGpu(engine, { ...args, sBase, eta: 0.5 });
  assertEquals(at.mask, Uint8Array.of(1, 1, 0, 0, 1, 1, 1, 1));
});

Deno.test("pruning kernels reject arguments that do not fit", async () => {
  const engine = await engineOf("software");
  const map = new Float32Array(6);
  const greedy = { layers: 2, heads: 3, sBase: map, headsPerDevice: [2, 1], capacities: [1, 1] };
  const short = new Float32Array(5);
  const rejects = (
    run: () => Promise<unknown>,
    message: string,
    type: typeof TypeError | typeof RangeError,
  ) => assertRejects(run, type, message);
  await rejects(() => greedyPruneOnGpu(engine, { ...greedy, sBase: short }), '"sBase"', TypeError);
  await rejects(
    () => greedyPruneOnGpu(engine, { ...greedy, headsPerDevice: [2, 2] }),
    "sum to 3",
    TypeError,
  );
  await rejects(() => greedyPruneOnGpu(engine, { ...greedy, capacities: [1] }), '"capacities"', TypeError);
  await rejects(
    () => greedyPruneOnGpu(engine, { ...greedy, sBase: map.map(() => -1) }),
    "not negative",
    RangeError,
  );
  await rejects(() => greedyPruneOnGpu(engine, { ...greedy, tau: 2 }), '"tau"', RangeError);
  await rejects(() => greedyPruneOnGpu(engine, { ...greedy, eta: -1 }), '"eta"', RangeError);
});
