/**
 * A LoRA step on EdgeTuner's engine.
 *
 * @module
 */

import {
  DEFAULT_OPTIMIZER,
  Gpt2EmbeddingAndHead,
  Gpt2Layers,
  HeadModules,
  LocalData,
  LocalHeads,
  runStep,
} from "@edgetuner/core";
import { Engine } from "@edgetuner/kernels";
import { adapterName, type System, type SystemOptions } from "./child.ts";
import { ADAM, ALPHA, batchOf, frozenWeights, type LoraPair, loraWeights, RANK } from "./shapes.ts";

/**
 * Starts a system whose step is ours.
 *
 * In full mode every head has an A [r, d] and a B [D, r] of its own: with the same A in all heads of
 * a layer, the Deltas of step 0 are those of standard LoRA, and every step does H times its work for
 * A. In slice mode a head reads d / H columns of X, so losses cannot be compared.
 */
export async function startOurs(
  { shape, mode }: Pick<SystemOptions, "shape" | "mode">,
  { profile = false }: { readonly profile?: boolean } = {},
): Promise<System & { readonly engine: Engine }> {
  const { n_layer: layers, n_head: heads, n_embd: hidden, batch, length } = shape;
  const about = `EdgeTuner, ${mode} mode, ${await adapterName()}`;
  const engine = await Engine.create({ profile });
  const weights = frozenWeights(shape);
  const base = new Gpt2Layers(engine, shape, weights);
  const ends = new Gpt2EmbeddingAndHead(engine, shape, weights);
  const modules = new HeadModules(engine, {
    lora: { mode, targets: ["q", "v"], rank: RANK, alpha: ALPHA, dropout: 0 },
    optimizer: { ...DEFAULT_OPTIMIZER, ...ADAM, weightDecay: 0, warmupSteps: 0, schedule: "constant" },
    layers,
    hidden,
    heads,
    range: { first: 0, count: heads },
    seed: 1,
    steps: 1000,
  });
  if (mode === "full") {
    const headSize = hidden / heads;
    const ofHead = ({ a, b }: LoraPair, head: number) => ({
      a: a.data,
      b: b.data.slice(head * headSize * RANK, (head + 1) * headSize * RANK),
    });
    modules.load(
      loraWeights(shape).map(({ q, v }) =>
        Array.from({ length: heads }, (_, head) => [ofHead(q, head), ofHead(v, head)])
      ),
    );
  }
  const local = new LocalHeads([modules]);
  const { tokens, targets } = batchOf(shape);
  const tokenBatch = { tokens, targets, mask: new Float32Array(tokens.length).fill(1), batch, length };
  const data = new LocalData(ends, { labelSmoothing: 0 }, () => ({ batch: tokenBatch, mode: "train" }));
  const mask = new Uint8Array(layers * heads);
  let count = 0;
  return {
    about,
    engine,
    async step() {
      const embedded = await data.next(count);
      const { loss } = await runStep({ engine, base, heads: local, data }, count++, embedded!, mask);
      await engine.idle();
      return loss ?? NaN;
    },
    [Symbol.asyncDispose]() {
      for (const resource of [local, base, ends, engine]) resource[Symbol.dispose]();
      return Promise.resolve();
    },
  };
}
