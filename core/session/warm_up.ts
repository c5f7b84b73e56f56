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
import type { HeadPort } from "../contracts/ports.ts";
import { CachedLayers } from "../generation/cached_layers.ts";
import { INPUT_MODE_NAMES, INPUT_MODES } from "../lora/input_modes.ts";
import { DEFAULT_LORA, LORA_TARGETS } from "../lora/settings.ts";
import type { BaseLayers, BaseShape, EmbeddingAndHead } from "../model/base.ts";
import { embedTokens, modelLoss } from "../model/loss.ts";
import { Tape } from "../model/tape.ts";
import { HEADS_SHAPE, SHAPE, warmHeadModules, withEachTile } from "./warm_heads.ts";

/** A machine's share of a run. */
export interface WarmUpParts {
  /** The base model's layers, of an edge server. @default {none} */
  readonly layers?: BaseLayers;
  /** Embedding and LM head, of a device with data. @default {none} */
  readonly ends?: EmbeddingAndHead;
  /** It owns head modules. @default {false} */
  readonly heads?: boolean;
  /** It decides on the GPU which heads are pruned. @default {false} */
  readonly pruning?: boolean;
  /** What the run does. @default {"train"} */
  readonly task?: "train" | "generate";
}

/**
 * Runs every kernel of some parts of a step once, on a sequence of a few tokens. Drivers compile a kernel when it
 * first runs, in up to a second each, and the kernels are the same for all lengths: so the first real step
 * takes no longer than the others. A machine does it before it joins, as in a run the others would wait.
 *
 * @param engine The engine that the step will run on. Nothing is left in its memory but what layers keep.
 * @param parts What the machine will do.
 * @throws {GpuError} If a kernel does not compile or run.
 * @category Training
 *
 * @example
 * ```ts
 * import { Engine, warmUp } from "@edgetuner/edgetuner";
 *
 * using engine = await Engine.create();
 * await warmUp(engine, { heads: true }); // then runUserDevice()
 * ```
 */
export async function warmUp(engine: Engine, parts: WarmUpParts): Promise<void> {
  await withEachTile(engine, () => warmParts(engine, parts));
}

async function warmParts(
  engine: Engine,
  { layers, ends, heads = false, pruning = false, task = "train" }: WarmUpParts,
): Promise<void> {
  if (layers !== undefined) {
    warmEdges(engine);
    await (task === "train" ? warmBase : warmDecoding)(engine, layers);
  }
  if (heads) await warmHeadModules(engine);
  if (ends !== undefined) warmData(ends);
  if (pruning) {
    await greedyPruneOnGpu(engine, {
      layers: 1,
      heads: 2,
      sBase: Float32Array.of(0, 1),
      headsPerDevice: [1, 1],
      capacities: [1, 1],
    });
  }
}

async function warmBase(engine: Engine, layers: BaseLayers): Promise<void> {
  const { hidden } = layers.shape;
  using list = engine.upload(Uint32Array.of(0), 1, 1, "warm-up heads");
  using tape = new Tape(engine, { training: true });
  const e = tape.variable(engine.zeros(SHAPE.length, hidden, "warm-up E"), { needsGradient: false });
  const h = await layers.forward(tape, e, SHAPE, emptyHeads(list, layers.shape));
  h.addGradient(engine.zeros(SHAPE.length, hidden, "warm-up dh_L"));
  await tape.backward();
}

/** What the edge server computes for the head modules, in every mode and with dropout. */
function warmEdges(engine: Engine): void {
  const { hidden } = HEADS_SHAPE;
  const rows = SHAPE.length;
  for (const mode of INPUT_MODE_NAMES) {
    using stack = new DisposableStack();
    const lora = { ...DEFAULT_LORA, mode, targets: LORA_TARGETS, dropout: 0.5 };
    const edge = stack.use(INPUT_MODES[mode].edge({ engine, lora, model: HEADS_SHAPE, seed: 0 }));
    const upload = (list: readonly number[]) =>
      stack.use(engine.upload(Uint32Array.from(list), 1, list.length, "warm-up heads"));
    for (const purpose of ["train", "evaluate"] as const) {
      const at = { layer: 0, kept: { list: [0, 1], upload }, step: 0, mode: purpose, firstRow: 0 };
      const x = stack.use(engine.zeros(rows, hidden, "warm-up X"));
      const { input, owned } = edge.gather(x, at);
      if (owned) stack.use(input);
      const qkv = stack.use(engine.zeros(rows, 3 * hidden, "warm-up Q, K, V"));
      edge.addDeltas(stack.use(edge.deltaGradients(qkv, 0, at)), 0, qkv, at);
      edge.addGradient(input, owned ? x : stack.use(engine.zeros(rows, hidden, "warm-up dX")), at);
    }
  }
}

/** A prompt, a token in the same row, and two rows that continue it. */
async function warmDecoding(engine: Engine, layers: BaseLayers): Promise<void> {
  using list = engine.upload(Uint32Array.of(0), 1, 1, "warm-up heads");
  using cached = new CachedLayers({ engine, layers, heads: emptyHeads(list, layers.shape) });
  for (const parents of [null, [0], [0, 0]]) {
    using tape = new Tape(engine, { training: false });
    const rows = parents?.length ?? 1;
    const e = engine.zeros(parents === null ? 2 : rows, layers.shape.hidden, "warm-up E");
    await cached.forward(tape, e, { rows, parents });
  }
}

/** Heads whose Deltas and gradients are zero, handled as those of other machines are in both LoRA modes. */
function emptyHeads(heads: Tensor, { headSize, hidden }: BaseShape): HeadPort {
  const columns = { first: 0, headSize: Math.min(headSize, hidden), heads };
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

function warmData(ends: EmbeddingAndHead): void {
  const length = Math.min(SHAPE.length, ends.shape.positions);
  const batch = {
    tokens: new Uint32Array(length),
    targets: new Uint32Array(length),
    mask: new Float32Array(length).fill(1),
    batch: 1,
    length,
  };
  using h = embedTokens(ends, batch);
  for (const training of [true, false]) {
    const { losses, gradient } = modelLoss(ends, h, batch, { labelSmoothing: 0, gradient: training });
    for (const loss of losses) loss.dispose();
    gradient?.dispose();
  }
}
