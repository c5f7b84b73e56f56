/**
 * A counter-based random generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3", 2011).
 *
 * Word number `i` of a stream is a function of (seed, stream, i) alone. There is no hidden state to
 * carry along: saving a generator is saving one number, and jumping to any place costs nothing.
 * Not for secrets.
 *
 * @module
 */

const ROUNDS = 10;
const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;
const UINT32 = 0x1_0000_0000;

/** The high 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function mulHigh(a: number, b: number): number {
  const aHigh = a >>> 16, aLow = a & 0xffff;
  const bHigh = b >>> 16, bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const middle2 = aLow * bHigh + (middle & 0xffff);
  // Every sum stays below 2^32, so doubles hold it exactly; >>> 16 reads it as unsigned.
  return (aHigh * bHigh + (middle >>> 16) + (middle2 >>> 16)) >>> 0;
}

/**
 * One Philox4x32-10 block: four 32-bit words from a 128-bit counter and a 64-bit key.
 *
 * @param counter Four unsigned 32-bit words, lowest first.
 * @param key Two unsigned 32-bit words, lowest first.
 * @returns Four unsigned 32-bit words.
 *
 * @example
 * ```ts
 * import { philox4x32 } from "@edgetuner/core";
 *
 * philox4x32([0, 0, 0, 0], [0, 0]); // [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
 * ```
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = mulHigh(M0, c0), low0 = Math.imul(M0, c0);
    const high1 = mulHigh(M1, c2), low1 = Math.imul(M1, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** A stream of random numbers whose place can be read and set. */
export interface RandomStream {
  /** How many 32-bit words have been drawn: the whole state. Set it to go to any place of the stream. */
  position: number;
  /**
   * Draws a 32-bit word.
   *
   * @returns An integer in [0, 2^32).
   */
  uint32(): number;
  /**
   * Draws a float with 24 random bits, so that it is exact in f32 too.
   *
   * @returns A number in [0, 1).
   */
  float(): number;
  /**
   * Draws an integer without bias. Usually takes one word; biased words are thrown away.
   *
   * @param bound An integer in [1, 2^32].
   * @returns An integer in [0, bound).
   * @throws {RangeError} If `bound` is not such an integer.
   */
  below(bound: number): number;
}

/**
 * Opens a stream. Streams of the same seed and different numbers are independent.
 *
 * @param seed An integer in [0, 2^32).
 * @param stream An integer in [0, 2^32).
 * @returns The stream, at position 0.
 * @throws {RangeError} If `seed` or `stream` is not such an integer.
 *
 * @example
 * ```ts
 * import { randomStream } from "@edgetuner/core";
 *
 * const random = randomStream(7);
 * const first = random.uint32();
 * random.position = 0;
 * random.uint32() === first; // true
 * ```
 */
export function randomStream(seed: number, stream = 0): RandomStream {
  for (const [name, value] of [["seed", seed], ["stream", stream]] as const) {
    if (!Number.isInteger(value) || value < 0 || value >= UINT32) {
      throw new RangeError(
        `Cannot open a random stream as '${name}' must be an integer in [0, 2^32): current value is ${value}`,
      );
    }
  }
  let block: [number, number, number, number] = [0, 0, 0, 0];
  let blockIndex = -1;
  let position = 0;
  const self: RandomStream = {
    get position() {
      return position;
    },
    set position(value: number) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new RangeError(
          `Cannot move a random stream as 'position' must be a non-negative integer: current value is ${value}`,
        );
      }
      position = value;
    },
    uint32() {
      const index = Math.floor(position / 4);
      if (index !== blockIndex) {
        block = philox4x32([index % UINT32, Math.floor(index / UINT32), 0, 0], [seed, stream]);
        blockIndex = index;
      }
      const word = block[position % 4]!;
      position += 1;
      return word;
    },
    float() {
      return (self.uint32() >>> 8) / 0x100_0000;
    },
    below(bound: number) {
      if (!Number.isInteger(bound) || bound < 1 || bound > UINT32) {
        throw new RangeError(
          `Cannot draw an integer as 'bound' must be an integer in [1, 2^32]: current value is ${bound}`,
        );
      }
      const limit = UINT32 - (UINT32 % bound);
      let word = self.uint32();
      while (word >= limit) word = self.uint32();
      return word % bound;
    },
  };
  return self;
}

/**
 * Draws a random order of 0 .. length - 1 (Fisher-Yates).
 *
 * @param length How many numbers.
 * @param random Where the randomness comes from.
 * @returns The order, shape [length].
 */
export function permutation(length: number, random: RandomStream): Uint32Array {
  const order = new Uint32Array(length);
  for (let i = 0; i < length; i++) order[i] = i;
  for (let i = length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const swap = order[i]!;
    order[i] = order[j]!;
    order[j] = swap;
  }
  return order;
}
