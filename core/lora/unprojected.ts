/**
 * Head modules of modes with frozen projections as such of mode `full`, which need none: exactly the same LoRA.
 *
 * d hidden size, D head size, r rank.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { headSizeOf } from "../contracts/model_shape.ts";
import type { NamedArray } from "../files/named_arrays.ts";
import type { Adapter } from "./adapter.ts";
import { namedMatrices } from "./head_arena.ts";
import { INPUT_MODES } from "./input_modes.ts";
import { type HeadProjections, projectionsFor } from "./projections.ts";

/** Left [rows, inner] times right [inner, columns], summed in double precision. */
function product(left: Float32Array, right: Float32Array, inner: number): Float32Array {
  const columns = right.length / inner;
  const out = new Float32Array(left.length / inner * columns);
  for (let i = 0; i < out.length; i++) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    let sum = 0;
    for (let k = 0; k < inner; k++) sum += left[row * inner + k]! * right[k * columns + column]!;
    out[i] = sum;
  }
  return out;
}

/**
 * Head modules that stand alone: where a mode has frozen projections, A [r, d] and B R [D, r] of each head and target.
 *
 * @param adapter Head modules of some heads.
 * @param projections Frozen projections, where the adapter asks for such from the base model.
 * @returns The adapter itself if its mode has no projections.
 * @throws {ModelFileError} If a head module is missing.
 * @throws {TypeError} If projections from the base model are missing.
 */
export function unprojected(adapter: Adapter, projections?: HeadProjections): Adapter {
  const { lora: { projections: form, ...lora }, model } = adapter;
  if (!INPUT_MODES[lora.mode].projects) return adapter;
  const { rank, targets } = lora;
  const pairs = projectionsFor({ rank, targets, ...(form && { projections: form }) }, model, projections);
  const arrays = new Map<string, NamedArray>();
  for (let layer = 0; layer < model.layers; layer++) {
    for (let head = 0; head < model.heads; head++) {
      for (const target of targets) {
        const { name } = namedMatrices(lora.mode, { layer, head, target })[0]!;
        const core = adapter.arrays.get(name);
        if (core === undefined) {
          throw new ModelFileError(
            `Cannot export the adapter as it must hold every head module: "${name}" is missing`,
          );
        }
        const { a, b } = pairs.at({ layer, head, target });
        const data = { a, b: product(b, core.data, rank) };
        const shapes = { a: [rank, model.hidden], b: [headSizeOf(model), rank] };
        for (const { name, which } of namedMatrices("full", { layer, head, target })) {
          arrays.set(name, { shape: shapes[which], data: data[which] });
        }
      }
    }
  }
  return { ...adapter, lora: { ...lora, mode: "full" }, arrays };
}
