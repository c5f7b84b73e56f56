/**
 * Greedy pruning, slow and readable, what the kernel is compared with. In float32, where every sum
 * and every product is rounded at once: decisions hang on the last bit.
 *
 * @module
 */

import type { GreedyPruneOnGpuOptions, GreedyPruneOnGpuResult } from "./pruning.ts";

const f32 = Math.fround;

/** Eq. 29, Eq. 30 and the layer-wise rule; see `greedyPruneOnGpu`. */
export function greedyPruneReference(options: GreedyPruneOnGpuOptions): GreedyPruneOnGpuResult {
  const { layers, heads, sBase, headsPerDevice, capacities } = options;
  const { tau = 0.7, alpha = 1, rho = 0.2, beta = 0.3, eta = 1 } = options;
  const total = capacities.reduce((a, b) => a + b, 0);
  const owner = headsPerDevice.flatMap((n, m) => new Array<number>(n).fill(m));
  const mask = new Uint8Array(layers * heads);
  const sComp = new Float32Array(layers * heads);
  for (let layer = 0; layer < layers; layer++) {
    const base = sBase.subarray(layer * heads, (layer + 1) * heads);
    const kept = new Set(base.keys());
    const lost = headsPerDevice.map(() => 0);
    const importance = (head: number) => {
      const m = owner[head]!;
      const share = alpha * (capacities[m]! / total) ** rho;
      return f32(base[head]! * f32(share * (1 + beta * lost[m]! / headsPerDevice[m]!)));
    };
    const remaining = () => [...kept].reduce((sum, head) => f32(sum + base[head]!), 0);
    for (const head of kept) sComp[layer * heads + head] = importance(head);
    const limit = f32(f32(tau) * remaining());
    while (remaining() > limit) {
      const least = [...kept].reduce((a, b) => importance(b) < importance(a) ? b : a);
      kept.delete(least);
      lost[owner[least]!]!++;
    }
    if ((heads - kept.size) / heads > eta) kept.clear();
    for (let head = 0; head < heads; head++) mask[layer * heads + head] = kept.has(head) ? 0 : 1;
  }
  return { mask, sComp };
}
