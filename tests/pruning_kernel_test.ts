import { assertEquals, assertGreater } from "@std/assert";
import {
  greedyPrune,
  type GreedyPruneOptions,
  minMaxNormalise,
  pruneLayers,
  type PrunerInput,
  smoothImportance,
} from "@edgetuner/core";
import { pruneGreedily, updateImportance } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { engineOf, FORMS, integers, normal, testForms } from "./support/kernels.ts";
import { assertClose, TOLERANCE } from "./support/tolerance.ts";
import cases from "./fixtures/pruning/greedy_cases.json" with { type: "json" };

testForms("pruneGreedily() makes the decisions of the reference runs", async (engine) => {
  for (const { layers, heads, headsPerDevice, tau, rho, beta, alpha, sBase, pruned } of cases) {
    const args: GreedyPruneOptions = {
      layers,
      heads,
      headsPerDevice,
      capacities: headsPerDevice,
      tau,
      rho,
      beta,
      alpha,
      sBase: Float32Array.from(sBase.flat()),
    };
    const { mask, sComp } = await pruneGreedily(engine, args);
    assertEquals(mask, Uint8Array.from(pruned.flat()));
    assertEquals(sComp, greedyPrune(args).sComp);
  }
});

testForms("pruneGreedily() equals greedyPrune() and pruneLayers() on random maps", async (engine) => {
  for (let n = 0; n < 60; n++) {
    const [layers, heads, devices] = [1 + n % 7, 1 + (n * 37) % 128, 1 + n % 4];
    const headsPerDevice = new Array<number>(devices).fill(0);
    for (const m of integers(heads, devices, n)) headsPerDevice[m]!++;
    const random = normal(layers * heads, 1000 + n).map(Math.abs);
    const args: GreedyPruneOptions = {
      layers,
      heads,
      headsPerDevice,
      capacities: headsPerDevice.map((owned, m) => owned * 0.7 + m + 0.1),
      sBase: n % 3 === 0
        ? random.map((x) => 0.5 + x * 1e-3)
        : n % 3 === 1
        ? random
        : random.map((x) => Math.round(x * 8)),
      tau: [0.3, 0.5, 0.7, 0.9][n % 4]!,
      rho: [0, 0.2, 0.5, 1][(n >> 1) % 4]!,
      beta: [0, 0.1, 0.3, 0.9][(n >> 2) % 4]!,
      alpha: [1, 0.37][n % 2]!,
    };
    const eta = [0.2, 0.4, 0.6, 1][n % 4]!;
    const expected = greedyPrune(args);
    assertEquals(await pruneGreedily(engine, args), expected, `map ${n}`);
    const { mask } = await pruneGreedily(engine, { ...args, eta });
    assertEquals(mask, pruneLayers(expected.mask, { heads, eta }), `map ${n} with eta ${eta}`);
  }
});

testForms("updateImportance() equals minMaxNormalise() and smoothImportance()", async (engine) => {
  const [layers, heads] = [12, 12];
  let previous: Float32Array | null = null;
  for (let step = 0; step < 5; step++) {
    const gradient = normal(layers * heads, 50 + step).map(Math.abs);
    const { g, s } = await updateImportance(engine, { layers, heads, gradient, previous, lambda: 0.8 });
    // A difference of two numbers is rounded before it is divided, so the last bit may differ.
    const expected = minMaxNormalise(gradient);
    const worst = Math.max(...g.map((x, i) => Math.abs(x - expected[i]!)));
    assertEquals(worst <= 2 ** -23, true, `step ${step}: G is off by ${worst}`);
    assertEquals(s, smoothImportance(g, previous, 0.8), `step ${step}: S`);
    previous = s;
  }
});

for (const form of FORMS) {
  Deno.test({
    name: `greedyPruner() decides alike for 50 steps with the kernel and without (${form} form)`,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const engine = await engineOf(form);
      const context = { layers: 12, heads: 16, headsPerDevice: [8, 5, 3], capacities: [8, 5, 3], seed: 1 };
      const size = context.layers * context.heads;
      const onGpu = greedyPruner({ history: 5, compute: (args) => pruneGreedily(engine, args) });
      const onCpu = greedyPruner({ history: 5 });
      let gpuState = onGpu.init(context);
      let cpuState = onCpu.init(context);
      let lastMask: Uint8Array | null = null;
      let gradientNorm: Float32Array | null = null;
      let prunedSteps = 0;
      for (let step = 0; step < 50; step++) {
        const input: PrunerInput = {
          step,
          lastMask,
          gradientNorm,
          loraNorm: null,
          baseNorm: null,
          embeddingMean: null,
        };
        const [onGpuDecision, nextGpuState] = await onGpu.decide(input, gpuState, context);
        const [decision, nextCpuState] = await onCpu.decide(input, cpuState, context);
        assertEquals(onGpuDecision, decision, `step ${step}`);
        assertEquals(nextGpuState, nextCpuState, `state after step ${step}`);
        const s = nextCpuState.history.at(-1);
        const previous = cpuState.history.at(-1) ?? null;
        if (gradientNorm !== null && s !== undefined && s !== previous) {
          const observed = lastMask!.map((z) => 1 - z);
          const { layers, heads } = context;
          const options = {
            layers,
            heads,
            gradient: gradientNorm,
            observed,
            previous,
            lambda: 0.8,
            recovery: 0.1,
          };
          const update = await updateImportance(engine, options);
          assertClose(update.s, s, TOLERANCE.sum, `importance after step ${step}`);
        }
        const { mask } = decision;
        if (mask.includes(1)) prunedSteps++;
        // Gradients of a head differ by its place and by chance; a pruned head has none.
        const noise = normal(size, 2000 + step);
        gradientNorm = Float32Array.from(mask, (z, i) => z ? 0 : (1 + i % 16) * Math.exp(noise[i]!));
        lastMask = mask;
        [gpuState, cpuState] = [nextGpuState, nextCpuState];
      }
      assertGreater(prunedSteps, 40);
    },
  });
}
