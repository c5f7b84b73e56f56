/**
 * Running the kernels of head modules once before the first real step.
 *
 * @module
 */

import { type Engine, matmulTiles, setMatmulTiles } from "@edgetuner/kernels";
import { HeadModules } from "../lora/head_modules.ts";
import { inputRows } from "../lora/input_mode.ts";
import { INPUT_MODE_NAMES, type InputModeName } from "../lora/input_modes.ts";
import { DEFAULT_LORA, DEFAULT_OPTIMIZER, LORA_TARGETS } from "../lora/settings.ts";

/** Two layers: the upper one needs the gradient of its input, the lower one does not. */
export const HEADS_SHAPE = { layers: 2, heads: 2, hidden: 16, headSize: 8 };
/** Sequences and tokens of a warm-up. */
export const SHAPE = { batch: 1, length: 4 };

/**
 * What `warmUp` does for a device that has heads and no data.
 *
 * @param engine The engine that the steps will run on.
 * @throws {GpuError} If a kernel does not compile or run.
 */
export async function warmUpHeads(engine: Engine): Promise<void> {
  await withEachTile(engine, () => warmHeadModules(engine));
}

/** Does something with each tile of matrix products that steps may use, and waits until the GPU is done. */
export async function withEachTile(engine: Engine, run: () => Promise<void>): Promise<void> {
  const tiles = matmulTiles(engine);
  try {
    // The size of a product chooses between two tiles, and a tile is a kernel of its own.
    for (const tile of new Set([tiles.few, tiles.many])) {
      setMatmulTiles(engine, { few: tile, many: tile });
      await run();
    }
  } finally {
    setMatmulTiles(engine, tiles);
  }
  await engine.idle();
}

/** A tiny step of head modules in every input mode. */
export async function warmHeadModules(engine: Engine): Promise<void> {
  for (const mode of INPUT_MODE_NAMES) await warmHeads(engine, mode);
}

async function warmHeads(engine: Engine, mode: InputModeName): Promise<void> {
  const { layers, heads, hidden } = HEADS_SHAPE;
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
  const answers = { rows: SHAPE.length * kept.length, columns: modules.input.deltaColumns(modules.size) };
  for (const layer of kept) {
    const size = inputRows(modules.input.shape(kept.length, SHAPE.length, modules.size));
    const x = engine.zeros(size.rows, size.columns);
    for (const delta of modules.forward(layer, kept, x, { step: 0, mode: "train", ownsInput: true })) {
      delta.dispose();
    }
  }
  for (const layer of kept.toReversed()) {
    const gradients = LORA_TARGETS.map(() => engine.zeros(answers.rows, answers.columns));
    modules.backward(layer, gradients, { step: 0, needsInput: layer > 0 })?.dispose();
    for (const gradient of gradients) gradient.dispose();
  }
  await modules.update(0, new Uint8Array(layers * heads), ["gradientNorm", "loraNorm"]);
}
