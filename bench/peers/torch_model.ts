/**
 * Weights and batch in files, for a system that is no Deno program.
 *
 * @module
 */

import {
  ADAM,
  ALPHA,
  batchOf,
  frozenWeights,
  loraWeights,
  RANK,
  type StepShape,
  type Weight,
} from "./shapes.ts";

/**
 * Writes what a step is computed from: `index.json`, and a file of little-endian f32 for each tensor.
 *
 * @param folder Where a folder for it is made.
 * @returns The folder.
 */
export async function torchModel(folder: string, shape: StepShape): Promise<string> {
  const own = `${folder}/torch_model`;
  await Deno.mkdir(own, { recursive: true });
  const all = new Map<string, Weight>(frozenWeights(shape));
  for (const [layer, pairs] of loraWeights(shape).entries()) {
    for (const [target, { a, b }] of Object.entries(pairs)) {
      all.set(`lora.${layer}.${target}.a`, a);
      all.set(`lora.${layer}.${target}.b`, b);
    }
  }
  for (const [name, { data }] of all) await Deno.writeFile(`${own}/${name}`, new Uint8Array(data.buffer));
  const { tokens, targets } = batchOf(shape);
  const index = {
    ...{ shape, adam: ADAM, alpha: ALPHA, rank: RANK },
    tokens: [...tokens],
    targets: [...targets],
    tensors: Object.fromEntries([...all].map(([name, weight]) => [name, weight.shape])),
  };
  await Deno.writeTextFile(`${own}/index.json`, JSON.stringify(index));
  return own;
}
