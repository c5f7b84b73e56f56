/**
 * How much adapter memory the head modules of a device take.
 *
 * @module
 */

import { tensorBytes } from "@edgetuner/kernels";
import type { ModelShape } from "../contracts/model_shape.ts";
import { inputRows } from "../lora/input_mode.ts";
import { INPUT_MODES } from "../lora/input_modes.ts";
import { headParameters, type LoraSettings, modeSize } from "../lora/settings.ts";

/** LoRA settings that memory depends on. */
export type MemoryLora = Pick<LoraSettings, "mode" | "targets" | "rank" | "dropout" | "projections">;

/**
 * Bytes of what head modules hold, keep of a step and make.
 *
 * @param model Shape of the base model.
 * @param lora LoRA.
 * @param share `rows` of the step that are computed at once, `heads` of every layer, and `copies` to go back by: 1 on a
 * device, 0 on one machine.
 */
export function headMemory(
  model: ModelShape,
  lora: MemoryLora,
  { rows, heads, copies }: { readonly rows: number; readonly heads: number; readonly copies: number },
): number {
  const { layers } = model;
  const { targets: { length: targets }, rank, dropout } = lora;
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, model);
  const shape = inputRows(mode.shape(heads, rows, size));
  const input = tensorBytes(shape.rows, shape.columns);
  const segment = headParameters({ ...lora, rank: Math.ceil(rank / 4) * 4 }, model);
  // Weights, gradients and two moments; a device also keeps what an update changes as it was before.
  const held = (copies > 0 ? 7 : 4) * layers * tensorBytes(heads, segment);
  const drops = dropout > 0 && mode.dropoutHeads([]) !== null;
  const keepsInput = copies > 0 || mode.copies || drops;
  const down = mode.outputs(size) === 0 ? 0 : targets * tensorBytes(heads * rows, rank);
  const deltas = targets * tensorBytes(heads * rows, mode.deltaColumns(size));
  const kept = layers * ((keepsInput ? input : 0) + down);
  // Deltas or their gradients, those through B, and that of the input.
  return held + kept + deltas + down + input * (drops ? 2 : 1);
}
