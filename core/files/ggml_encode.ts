/**
 * Float32 values as element types of GGML, as its own reference does: F32, F16 and Q8_0.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { ggmlBlock } from "./ggml_types.ts";

/** Types that can be written. */
export const GGML_WRITTEN = ["F32", "F16", "Q8_0"] as const;

/** See `GGML_WRITTEN`. */
export type GgmlWritten = typeof GGML_WRITTEN[number];

/** Largest float16. */
const MAX_F16 = 65504;
/** Half of the step above it: from here on a value is rounded to infinity. */
const TOO_LARGE_F16 = MAX_F16 + 16;

type Encode = (values: Float32Array, view: DataView<ArrayBuffer>) => void;

function putF16(values: Float32Array, { buffer }: DataView<ArrayBuffer>): void {
  for (const value of values) {
    if (!(Math.abs(value) < TOO_LARGE_F16)) {
      throw new ModelFileError(
        `Cannot write a tensor as F16 as its values must be between -${MAX_F16} and ${MAX_F16}: current value is ${value}`,
      );
    }
  }
  new Float16Array(buffer).set(values);
}

/** Blocks of 32: a scale, the largest value divided by 127, and so many times of it. */
function putQ8(values: Float32Array, view: DataView): void {
  const { elements, bytes } = ggmlBlock("Q8_0");
  for (let block = 0; block * elements < values.length; block++) {
    let largest = 0;
    for (let i = 0; i < elements; i++) {
      largest = Math.max(largest, Math.abs(values[block * elements + i]!));
    }
    const scale = Math.fround(largest / 127);
    if (!(scale < TOO_LARGE_F16)) {
      throw new ModelFileError(
        `Cannot write a tensor as Q8_0 as its values must be between -${127 * MAX_F16} and ${
          127 * MAX_F16
        }: current value is ${largest}`,
      );
    }
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    view.setFloat16(block * bytes, scale, true);
    for (let i = 0; i < elements; i++) {
      const times = Math.fround(values[block * elements + i]! * inverse);
      // Halves go away from zero.
      view.setInt8(block * bytes + 2 + i, Math.sign(times) * Math.floor(Math.abs(times) + 0.5));
    }
  }
}

const ENCODERS: Readonly<Record<GgmlWritten, Encode>> = {
  F32: (values, { buffer }) => new Float32Array(buffer).set(values),
  F16: putF16,
  Q8_0: putQ8,
};

/**
 * Turns values into a tensor's data.
 *
 * @param type Name of the type.
 * @param values Whole blocks of the type.
 * @throws {ModelFileError} If they are not whole blocks, or F16 cannot hold a value.
 */
export function quantise(type: GgmlWritten, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { elements, bytes } = ggmlBlock(type);
  if (values.length % elements !== 0) {
    throw new ModelFileError(
      `Cannot write a tensor as ${type} as its values must be whole blocks of ${elements}: there are ${values.length}`,
    );
  }
  const out = new Uint8Array(values.length / elements * bytes);
  ENCODERS[type](values, new DataView(out.buffer));
  return out;
}
