/**
 * Head masks: which heads of which layer take part in a step.
 *
 * @module
 */

import type { HeadRange } from "./allocation.ts";

/** The kept heads of one device in a layer, as indices within its range. */
export function keptHeads(
  mask: Uint8Array,
  heads: number,
  layer: number,
  { first, count }: HeadRange,
): number[] {
  const kept: number[] = [];
  for (let i = 0; i < count; i++) if (mask[layer * heads + first + i] === 0) kept.push(i);
  return kept;
}

/** The lowest layer with a kept head, below which nothing is trained; L if all heads are pruned. */
export function lowestLayer(mask: Uint8Array, heads: number): number {
  const first = mask.indexOf(0);
  return first < 0 ? mask.length / heads : Math.floor(first / heads);
}

/** The part of a head mask [L * H] that one device needs, [L * H_m]. */
export function maskOfRange(
  mask: Uint8Array,
  heads: number,
  { first, count }: HeadRange,
): Uint8Array<ArrayBuffer> {
  const layers = mask.length / heads;
  const part = new Uint8Array(layers * count);
  for (let l = 0; l < layers; l++) {
    part.set(mask.subarray(l * heads + first, l * heads + first + count), l * count);
  }
  return part;
}

/** Writes a device's map [L * H_m] into the whole map [L * H]. */
export function putRange(
  part: Float32Array,
  whole: Float32Array,
  heads: number,
  { first, count }: HeadRange,
): void {
  const layers = whole.length / heads;
  for (let l = 0; l < layers; l++) whole.set(part.subarray(l * count, (l + 1) * count), l * heads + first);
}
