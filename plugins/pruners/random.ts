/**
 * Random pruning: the baseline that any importance has to beat at the same kept share.
 *
 * @module
 */

import type { Pruner, PrunerContext, PrunerDecision, PrunerInput } from "@edgetuner/core/contracts";

/** Options of {@linkcode randomPruner}. */
export interface RandomPrunerOptions {
  /** Share of all L * H head modules that is pruned in every step, in [0, 1]; rounded to whole heads. */
  readonly share: number;
}

/** Mixes the bits of a 32 bit integer so that neighbouring integers end far apart (murmur3's finaliser). */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Draws numbers in [0, 1) that depend on the seed and the step alone (mulberry32). */
function numbersOf(seed: number, step: number): () => number {
  const bits = new Uint32Array(Float64Array.of(seed, step).buffer);
  let a = bits.reduce((hash, word) => mix(hash + 0x9e3779b9 ^ word), 0);
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let x = Math.imul(a ^ (a >>> 15), a | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * A pruner that prunes the same number of heads in every step, drawn at random from all layers. The
 * draw depends on the run's seed and the step number alone: a run that is resumed at a step
 * goes on as it would have.
 *
 * @category Pruners
 *
 * @example
 * ```ts
 * import { randomPruner } from "@edgetuner/plugins";
 * import { assertEquals } from "@std/assert";
 *
 * const context = { layers: 2, heads: 4, headsPerDevice: [4], capacities: [1], seed: 1 };
 * const pruner = randomPruner({ share: 0.5 });
 * const input = { step: 0, lastMask: null, gradientNorm: null, loraNorm: null, baseNorm: null, embeddingMean: null };
 * const [{ mask }] = await pruner.decide(input, null, context);
 * assertEquals(mask.reduce((n, z) => n + z, 0), 4);
 * ```
 *
 * @returns A pruner named `"random"` that needs no statistics.
 * @throws {TypeError} If `share` is not a number.
 * @throws {RangeError} If `share` is not in [0, 1].
 */
export function randomPruner(options: RandomPrunerOptions): Pruner<null> {
  const { share } = options;
  if (typeof share !== "number") {
    throw new TypeError(
      `Cannot create a random pruner as "share" must be a number: current type is ${typeof share}`,
    );
  }
  if (!(share >= 0 && share <= 1)) {
    throw new RangeError(
      `Cannot create a random pruner as "share" must be between 0 and 1: current value is ${share}`,
    );
  }
  return {
    name: "random",
    needs: [],
    init: () => null,
    decide(
      { step }: PrunerInput,
      state: null,
      { layers, heads, seed }: PrunerContext,
    ): [PrunerDecision, null] {
      const size = layers * heads;
      const next = numbersOf(seed, step);
      const order = Uint32Array.from({ length: size }, (_, i) => i);
      const mask = new Uint8Array(size);
      const count = Math.round(share * size);
      for (let i = 0; i < count; i++) { // the first steps of a Fisher-Yates shuffle
        const j = i + Math.floor(next() * (size - i));
        [order[i], order[j]] = [order[j]!, order[i]!];
        mask[order[i]!] = 1;
      }
      return [{ mask }, state];
    },
  };
}
