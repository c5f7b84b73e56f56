/**
 * A head mask before a pruner has decided anything.
 *
 * @module
 */

/**
 * A mask that keeps a share of the heads, evenly over the layers that keep any, and in each of them over
 * the devices.
 *
 * @param headsPerDevice H_m of each device.
 * @param options L, share of the heads kept, share of the layers that keep any.
 * @returns z, [L * H], 1 = pruned.
 * @throws {RangeError} If a share is not in [0, 1].
 */
export function evenMask(
  headsPerDevice: readonly number[],
  options: { readonly layers: number; readonly keep: number; readonly keepLayers?: number },
): Uint8Array {
  const { layers, keep, keepLayers = 1 } = options;
  for (const [name, share] of Object.entries({ keep, keepLayers })) {
    if (!(share >= 0 && share <= 1)) {
      throw new RangeError(`Cannot plan as ${name} must be from 0 to 1: current value is ${share}`);
    }
  }
  const heads = headsPerDevice.reduce((a, b) => a + b, 0);
  const mask = new Uint8Array(layers * heads).fill(1);
  // Differences of a rounded ramp: as even as whole numbers can be.
  const ramp = (share: number, at: number) => Math.round(share * at);
  const open: number[] = [];
  for (let l = 0; l < layers; l++) if (ramp(keepLayers, l + 1) > ramp(keepLayers, l)) open.push(l);
  const total = Math.min(Math.round(keep * layers * heads), open.length * heads);
  open.forEach((l, i) => {
    const kept = ramp(total / open.length, i + 1) - ramp(total / open.length, i);
    let first = 0;
    for (const count of headsPerDevice) {
      const own = ramp(kept / heads, first + count) - ramp(kept / heads, first);
      mask.fill(0, l * heads + first, l * heads + first + own);
      first += count;
    }
  });
  return mask;
}
