import { assertEquals, assertRejects } from "@std/assert";
import { engineOf, integers, normal, testForms } from "../../tests/support/kernels.ts";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { pruneGreedilyReference } from "./greedy_reference.ts";
import { updateImportanceReference } from "./importance_reference.ts";
import { pruneGreedily, updateImportance } from "./pruning.ts";

const SHAPES = [[1, 1], [2, 3], [13, 12], [9, 25], [5, 128]] as const;

testForms("updateImportance() equals the reference", async (engine) => {
  for (const [layers, heads] of SHAPES) {
    const size = layers * heads;
    const gradient = normal(size, 1).map(Math.abs);
    const previous = normal(size, 2).map(Math.abs);
    const some = Uint8Array.from(integers(size, 3, 3), (x) => x === 0 ? 0 : 1);
    // The first layer has shown nothing.
    some.fill(0, 0, heads);
    const cases = {
      "first step": { gradient, previous: null },
      "all observed": { gradient, previous },
      "some observed": { gradient, observed: some, previous, recovery: 0.1 },
      "some observed, held": { gradient, observed: some, previous },
      "some observed, first step": { gradient, observed: some, previous: null, recovery: 0.1 },
      "none observed": { gradient, observed: new Uint8Array(size), previous, recovery: 0.5 },
      "none observed, first step": { gradient, observed: new Uint8Array(size), previous: null },
      "flat": { gradient: gradient.map(() => 0.3), previous },
      "not finite": {
        gradient: gradient.map((x, i) => [NaN, Infinity, x, x][i % 4]!),
        previous,
        recovery: 0.25,
      },
    };
    for (const [name, options] of Object.entries(cases)) {
      const args = { layers, heads, lambda: 0.8, ...options };
      const { g, s } = await updateImportance(engine, args);
      const expected = updateImportanceReference(args);
      const what = `${name} [${layers}, ${heads}]`;
      assertClose(g, expected.g, TOLERANCE.sum, `${what}: G`);
      assertClose(s, expected.s, TOLERANCE.sum, `${what}: S`);
    }
  }
});

testForms("updateImportance() rounds like float32 on a CPU", async (engine) => {
  const [layers, heads] = [12, 12];
  const gradient = normal(144, 4).map(Math.abs);
  const previous = normal(144, 5).map(Math.abs);
  const { g, s } = await updateImportance(engine, { layers, heads, gradient, previous, lambda: 0.8 });
  assertEquals([Math.min(...g), Math.max(...g)], [0, 1]);
  const [now, before] = [Math.fround(0.8), Math.fround(1 - 0.8)];
  assertEquals(s, g.map((x, i) => Math.fround(now * x) + Math.fround(before * previous[i]!)));
});

testForms("pruneGreedily() decides like the reference, bit for bit", async (engine) => {
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
          const actual = await pruneGreedily(engine, args);
          assertEquals(
            actual,
            pruneGreedilyReference(args),
            `${name} [${layers}, ${heads}] over [${headsPerDevice}]`,
          );
        }
      }
    }
  }
});

testForms("pruneGreedily() prunes a layer whole above eta, not at it", async (engine) => {
  const args = { layers: 2, heads: 4, headsPerDevice: [4], capacities: [1], tau: 0.5 };
  // Layer 0 loses two of four heads, layer 1 three.
  const sBase = Float32Array.of(1, 1, 1, 1, 0.1, 0.1, 0.1, 0.2);
  assertEquals((await pruneGreedily(engine, { ...args, sBase })).mask, Uint8Array.of(1, 1, 0, 0, 1, 1, 1, 0));
  const at = await pruneGreedily(engine, { ...args, sBase, eta: 0.5 });
  assertEquals(at.mask, Uint8Array.of(1, 1, 0, 0, 1, 1, 1, 1));
});

Deno.test({
  name: "pruning kernels reject arguments that do not fit",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const engine = await engineOf("software");
    const map = new Float32Array(6);
    const importance = { layers: 2, heads: 3, gradient: map, previous: null, lambda: 0.8 };
    const greedy = { layers: 2, heads: 3, sBase: map, headsPerDevice: [2, 1], capacities: [1, 1] };
    const short = new Float32Array(5);
    const rejects = (
      run: () => Promise<unknown>,
      message: string,
      type: typeof TypeError | typeof RangeError,
    ) => assertRejects(run, type, message);
    await rejects(
      () => updateImportance(engine, { ...importance, gradient: short }),
      '"gradient"',
      TypeError,
    );
    await rejects(
      () => updateImportance(engine, { ...importance, previous: short }),
      '"previous"',
      TypeError,
    );
    const observed = new Uint8Array(7);
    await rejects(() => updateImportance(engine, { ...importance, observed }), '"observed"', TypeError);
    await rejects(() => updateImportance(engine, { ...importance, lambda: 1.5 }), '"lambda"', RangeError);
    await rejects(() => updateImportance(engine, { ...importance, recovery: NaN }), '"recovery"', RangeError);
    await rejects(() => pruneGreedily(engine, { ...greedy, sBase: short }), '"sBase"', TypeError);
    await rejects(() => pruneGreedily(engine, { ...greedy, headsPerDevice: [2, 2] }), "sum to 3", TypeError);
    await rejects(() => pruneGreedily(engine, { ...greedy, capacities: [1] }), '"capacities"', TypeError);
    await rejects(
      () => pruneGreedily(engine, { ...greedy, sBase: map.map(() => -1) }),
      "not negative",
      RangeError,
    );
    await rejects(() => pruneGreedily(engine, { ...greedy, tau: 2 }), '"tau"', RangeError);
    await rejects(() => pruneGreedily(engine, { ...greedy, eta: -1 }), '"eta"', RangeError);
  },
});
