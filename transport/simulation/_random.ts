/**
 * Random numbers for delays and losses.
 *
 * @module
 */

/** Numbers in [0, 1) that only depend on the seed. */
export function makeRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    // Mulberry32: short, and good enough for delays.
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** How many of `count` independent events of probability `p` happen. */
export function drawCount(count: number, p: number, random: () => number): number {
  if (p <= 0) return 0;
  let hits = 0;
  // The distance to the next event is geometric: as many draws as events, however many there could be.
  for (let at = -1;;) {
    at += 1 + Math.floor(Math.log(1 - random()) / Math.log1p(-p));
    if (!(at < count)) return hits;
    hits++;
  }
}
