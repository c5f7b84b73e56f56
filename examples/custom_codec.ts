/**
 * A complete codec of your own: bfloat16, the upper half of a 32-bit float. As wide a range as f32 and
 * 2 bytes a number, but only 8 bits of precision. Use it in a real run:
 *
 * ```sh
 * deno run -A examples/demo.ts --codec examples/custom_codec.ts
 * ```
 *
 * @module
 */

import { elementsOf, type WireCodec } from "@edgetuner/plugins/contracts";

/** Makes the codec. The default export, so that `--codec FILE` finds it. */
export default function bf16Codec(): WireCodec {
  return {
    name: "bf16",
    byteLength: (shape) => 2 * elementsOf(shape),
    encode(values) {
      const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
      const halves = new Uint16Array(values.length);
      for (let i = 0; i < values.length; i++) {
        const b = bits[i]!;
        // Half of what is cut off, and one more if the last kept bit is odd: to the nearest, ties to even.
        const rounded = (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
        // Infinity and NaN stay what they are; numbers next to the largest must not become infinite.
        halves[i] = (b & 0x7f800000) === 0x7f800000 || (rounded & 0x7f80) === 0x7f80 ? b >>> 16 : rounded;
      }
      return new Uint8Array(halves.buffer);
    },
    decode(bytes, shape) {
      const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, elementsOf(shape));
      const bits = new Uint32Array(halves.length);
      for (let i = 0; i < bits.length; i++) bits[i] = halves[i]! << 16;
      return new Float32Array(bits.buffer);
    },
  };
}
