import { assertEquals, assertGreater } from "@std/assert";
import { greedyPrune, type GreedyPruneOptions, pruneLayers, type PrunerInput } from "@edgetuner/core";
import { greedyPruneOnGpu } from "@edgetuner/kernels";
import { greedyPruner } from "@edgetuner/plugins";
import { engineOf, FORMS, integers, normal, testForms } from "./support/kernels.ts";
import cases from "./fixtures/pruning/greedy_cases.json" with { type: "json" };

testForms("greedyPruneOnGpu() makes the decisions of the reference runs", async (engine) => {
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
    const { mask, sComp } = await greedyPruneOnGpu(engine, args);
    assertEquals(mask, Uint8Array.from(pruned.flat()));
    assertEquals(sComp, greedyPrune(args).sComp);
  }
});

testForms("greedyPruneOnGpu() equals greedyPrune() and pruneLayers() on random maps", async (engine) => {
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
    assertEquals(await greedyPruneOnGpu(engine, args), expected, `map ${n}`);
    const { mask } = await greedyPruneOnGpu(engine, { ...args, eta });
    assertEquals(mask, pruneLayers(expected.mask, { heads, eta }), `map ${n} with eta ${eta}`);
  }
});

for (const form of FORMS) {
  Deno.test(`greedyPruner() decides alike for 50 steps with the kernel and without (${form} form)`, async () => {
    const engine = await engineOf(form);
    const context = { layers: 12, heads: 16, headsPerDevice: [8, 5, 3], capacities: [8, 5, 3], seed: 1 };
    const size = context.layers * context.heads;
    const onGpu = greedyPruner({ history: 5, compute: (args) => greedyPruneOnGpu(engine, args) });
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
      const { mask } = decision;
      if (mask.includes(1)) prunedSteps++;
      // Gradients of a head differ by its place and by chance; a pruned head has none.
      const noise = normal(size, 2000 + step);
      gradientNorm = Float32Array.from(mask, (z, i) => z ? 0 : (1 + i % 16) * Math.exp(noise[i]!));
      lastMask = mask;
      [gpuState, cpuState] = [nextGpuState, nextCpuState];
    }
    assertGreater(prunedSteps, 40);
  });
}
