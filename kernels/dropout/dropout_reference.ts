/**
 * LoRA dropout, drawn on the CPU: slow, readable, what the kernel is compared with.
 *
 * @module
 */

import type { DropoutKey } from "./dropout.ts";

/** pcg4d: Jarzynski and Olano, Hash Functions for GPU Rendering, JCGT 9(3), 2020. */
function pcg4d(seed: readonly [number, number, number, number]): number[] {
  let [x, y, z, w] = seed.map((v) => Math.imul(v, 1664525) + 1013904223 | 0) as [
    number,
    number,
    number,
    number,
  ];
  const round = () => {
    x = x + Math.imul(y, w) | 0;
    y = y + Math.imul(z, x) | 0;
    z = z + Math.imul(x, y) | 0;
    w = w + Math.imul(y, z) | 0;
  };
  round();
  [x, y, z, w] = [x ^ (x >>> 16), y ^ (y >>> 16), z ^ (z >>> 16), w ^ (w >>> 16)];
  round();
  return [x, y, z, w].map((v) => v >>> 0);
}

/** The finaliser of MurmurHash3 over a combination of two 32-bit integers. */
function mix(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * Factor of each element of a layer's input, [rows, columns]: 0, or 1 / (1 - rate). Four columns
 * share a draw: element (row, column) takes word column % 4 of the draw at (row, column / 4).
 */
export function dropoutFactorsReference(rows: number, columns: number, key: DropoutKey): Float64Array {
  const keys = [mix(key.seed, key.layer), mix(key.step, key.seed)] as const;
  const threshold = Math.floor(key.rate * 2 ** 32);
  const factors = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const draw = pcg4d([row, Math.floor(column / 4), ...keys])[column % 4]!;
      factors[row * columns + column] = draw < threshold ? 0 : 1 / (1 - key.rate);
    }
  }
  return factors;
}
