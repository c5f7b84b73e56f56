/**
 * Running the kernels of a step once before the first real one.
 *
 * @module
 */

import {
  addScaled,
  type Engine,
  gatherHeadColumns,
  greedyPruneOnGpu,
  scatterAddHeadColumns,
  type Tensor,
} from "@edgetuner/kernels";
import { initialWeights } from "../loading/model_folder.ts";
import { CachedLayers } from "../generation/cached_layers.ts";
import { HeadModules } from "../lora/head_modules.ts";
import { inputRows } from "../lora/input_mode.ts";
import { INPUT_MODE_NAMES, type InputModeName } from "../lora/input_modes.ts";
import { DEFAULT_LORA, DEFAULT_OPTIMIZER, LORA_TARGETS } from "../lora/settings.ts";
import { type Gpt2Config, Gpt2EmbeddingAndHead, Gpt2Layers } from "../model/families/gpt2.ts";
import { embedTokens, modelLoss } from "../model/loss.ts";
import type { BaseWeights } from "../model/weights.ts";
import type { HeadPort } from "../contracts/ports.ts";
import { Tape } from "../model/tape.ts";

/**
 * A machine's share of a step: `base` the layers and the traffic of the heads' Deltas, `heads` the head
 * modules, `data` embedding and loss, `pruning` the greedy decision on the GPU, `decoding` the layers in
 * generation.
 */
export type WarmUpPart = "base" | "heads" | "data" | "pruning" | "decoding";

/** Two layers: the upper one needs the gradient of its input, the lower one does not. */
const CONFIG: Gpt2Config = {
  n_layer: 2,
  n_head: 2,
  n_embd: 16,
  vocab_size: 8,
  n_positions: 4,
  layer_norm_epsilon: 1e-5,
};
const HEAD_SIZE = CONFIG.n_embd / CONFIG.n_head;
const BATCH = {
  tokens: Uint32Array.of(1, 2, 3, 4),
  targets: Uint32Array.of(2, 3, 4, 5),
  mask: new Float32Array(4).fill(1),
  batch: 1,
  length: 4,
};

/**
 * Runs every kernel of some parts of a step once, on tensors of a few numbers. Drivers compile a kernel when it
 * first runs, in up to a second each, and the kernels are the same for all sizes: so the first real step
 * takes no longer than the others. A machine does it before it joins, as in a run the others would wait.
 *
 * @param engine The engine that the step will run on. Nothing is left in its memory.
 * @param parts What the machine will do. Edge server: `base` and `pruning`, and `decoding` to generate; user device: `heads`, and `data` if
 * it has the data.
 * @param baseWeights How the base is held. @default {"f32"}
 * @throws {GpuError} If a kernel does not compile or run.
 * @category Training
 *
 * @example
 * ```ts
 * import { Engine, warmUp } from "@edgetuner/edgetuner";
 *
 * using engine = await Engine.create();
 * await warmUp(engine, ["heads"]); // then runUserDevice()
 * ```
 */
export async function warmUp(
  engine: Engine,
  parts: readonly WarmUpPart[],
  baseWeights: BaseWeights = "f32",
): Promise<void> {
  if (parts.includes("base")) await warmBase(engine, baseWeights);
  if (parts.includes("decoding")) await warmDecoding(engine, baseWeights);
  if (parts.includes("heads")) {
    for (const mode of INPUT_MODE_NAMES) await warmHeads(engine, mode);
  }
  if (parts.includes("data")) warmData(engine, baseWeights);
  if (parts.includes("pruning")) {
    await greedyPruneOnGpu(engine, {
      layers: 1,
      heads: 2,
      sBase: Float32Array.of(0, 1),
      headsPerDevice: [1, 1],
      capacities: [1, 1],
    });
  }
  await engine.idle();
}

async function warmBase(engine: Engine, baseWeights: BaseWeights): Promise<void> {
  using base = new Gpt2Layers(engine, CONFIG, initialWeights(CONFIG, 0), { baseWeights });
  using list = engine.upload(Uint32Array.of(0, 1), 1, 2, "warm-up heads");
  using tape = new Tape(engine, { training: true });
  const e = tape.variable(engine.zeros(BATCH.length, CONFIG.n_embd, "warm-up E"), { needsGradient: false });
  const h = await base.forward(tape, e, BATCH, emptyHeads(list));
  h.addGradient(engine.zeros(BATCH.length, CONFIG.n_embd, "warm-up dh_L"));
  await tape.backward();
}

/** A prompt, a token in the same row, and two rows that continue it. */
async function warmDecoding(engine: Engine, baseWeights: BaseWeights): Promise<void> {
  using layers = new Gpt2Layers(engine, CONFIG, initialWeights(CONFIG, 0), { baseWeights });
  using list = engine.upload(Uint32Array.of(0, 1), 1, 2, "warm-up heads");
  using cached = new CachedLayers({ engine, layers, heads: emptyHeads(list) });
  for (const parents of [null, [0], [0, 0]]) {
    using tape = new Tape(engine, { training: false });
    const rows = parents?.length ?? 1;
    const e = engine.zeros(parents === null ? 2 : rows, CONFIG.n_embd, "warm-up E");
    await cached.forward(tape, e, { rows, parents });
  }
}

/** Heads whose Deltas and gradients are zero, handled as those of other machines are in both LoRA modes. */
function emptyHeads(heads: Tensor): HeadPort {
  const columns = { first: 0, headSize: HEAD_SIZE, heads };
  const gatherAndScatter = (x: Tensor) => {
    const blocks = gatherHeadColumns(x, columns);
    return {
      addTo: (target: Tensor) => {
        scatterAddHeadColumns(blocks, target, columns);
        blocks.dispose();
        return Promise.resolve();
      },
    };
  };
  return {
    beginStep: () => Promise.resolve(),
    forward: (_layer, x) => gatherAndScatter(x),
    backward(_layer, dqkv, { needsInput }) {
      const pending = gatherAndScatter(dqkv);
      return {
        addTo: async (dx) => {
          if (!needsInput) return void await pending.addTo(dqkv);
          await pending.addTo(dx);
          using zero = dx.engine.zeros(dx.rows, dx.columns);
          addScaled(zero, dx);
        },
      };
    },
    endStep: () => Promise.resolve({}),
  };
}

async function warmHeads(engine: Engine, mode: InputModeName): Promise<void> {
  const { n_layer: layers, n_head: heads, n_embd: hidden } = CONFIG;
  using modules = new HeadModules(engine, {
    lora: { ...DEFAULT_LORA, mode, targets: LORA_TARGETS, dropout: 0.5 },
    optimizer: DEFAULT_OPTIMIZER,
    layers,
    heads,
    hidden,
    range: { first: 0, count: heads },
    seed: 0,
    steps: 1,
  });
  const kept = [0, 1];
  const rows = BATCH.length * kept.length;
  for (const layer of kept) {
    const size = inputRows(modules.input.shape(kept.length, BATCH.length, modules.options));
    const x = engine.zeros(size.rows, size.columns);
    for (const delta of modules.forward(layer, kept, x, { step: 0, mode: "train", ownsInput: true })) {
      delta.dispose();
    }
  }
  for (const layer of kept.toReversed()) {
    const gradients = LORA_TARGETS.map(() => engine.zeros(rows, HEAD_SIZE));
    modules.backward(layer, gradients, { step: 0, needsInput: layer > 0 })?.dispose();
    for (const gradient of gradients) gradient.dispose();
  }
  await modules.update(0, new Uint8Array(layers * heads), ["gradientNorm", "loraNorm"]);
}

function warmData(engine: Engine, baseWeights: BaseWeights): void {
  using ends = new Gpt2EmbeddingAndHead(engine, CONFIG, initialWeights(CONFIG, 0), { baseWeights });
  using h = embedTokens(ends, BATCH);
  for (const training of [true, false]) {
    const { losses, gradient } = modelLoss(ends, h, BATCH, { labelSmoothing: 0, gradient: training });
    for (const loss of losses) loss.dispose();
    gradient?.dispose();
  }
}
