/**
 * Answers of devices that are far too large: finite, of the right shape, and yet nothing that heads can have computed.
 *
 * Compared are gains, the norm of an answer over the norm of what was asked. Heads are linear in what they are asked, so
 * a gain grows only as their weights do, a little in each step. Losses that rise, batches that are hard, learning rates
 * that begin low and heads that are pruned change what is asked, and the answer with it.
 *
 * @module
 */

import { ProtocolError } from "../contracts/errors.ts";
import type { FrameKind } from "../protocol/messages.ts";
import type { HeadMember } from "./head_members.ts";

/** How many times its median a gain may be, if nobody says. */
export const OUTLIER_FACTOR = 10_000;
/** Gains that a median is of. */
const WINDOW = 32;
/** Gains that there must be before one is judged: heads begin at zero. */
const FIRST = 8;

/**
 * Checks a limit.
 *
 * @throws {RangeError} If it is not above 1.
 */
export function checkOutlierFactor(factor: number): number {
  if (factor > 1) return factor;
  throw new RangeError(
    `Cannot start the edge server as outlierFactor must be above 1: current value is ${factor}`,
  );
}

/** An answer, and what was asked. */
export interface Gain {
  readonly kind: FrameKind;
  readonly layer: number;
  readonly asked: ArrayLike<number>;
  readonly answer: ArrayLike<number>;
}

/** Keeps the gains of all devices. */
export class Outliers {
  readonly #factor: number;
  /** By device, kind and layer: the last gains. */
  readonly #gains = new Map<HeadMember, Map<string, number[]>>();
  /** Of each device: sum of squares of the gradients that it was sent in the step. */
  readonly #asked = new Map<HeadMember, number>();

  /**
   * Keeps gains.
   *
   * @param factor How many times its median a gain may be; `Infinity` for no limit.
   * @throws {RangeError} If it is not above 1.
   */
  constructor(factor: number = OUTLIER_FACTOR) {
    this.#factor = checkOutlierFactor(factor);
  }

  /** A step begins. */
  begin(): void {
    this.#asked.clear();
  }

  /** Gradients of Deltas are sent, which the norm of the device's gradients is held against. */
  ask(device: HeadMember, kind: FrameKind, values: ArrayLike<number>): void {
    if (this.#factor === Infinity || kind !== "deltaGradient") return;
    this.#asked.set(device, (this.#asked.get(device) ?? 0) + sumOfSquares(values));
  }

  /**
   * Holds an answer against what was asked.
   *
   * @throws {ProtocolError} If it is far larger than answers were before; the device is closed.
   */
  answered(device: HeadMember, { kind, layer, asked, answer }: Gain): void {
    if (this.#factor === Infinity) return;
    const gain = Math.sqrt(sumOfSquares(answer) / sumOfSquares(asked));
    this.#judge(device, gain, `"${kind}" of layer ${layer}`);
  }

  /**
   * The squared norm of all gradients of a device in the step, which the others' gradients are clipped by.
   *
   * @throws {ProtocolError} As `answered`.
   */
  squaredNorm(device: HeadMember, square: number): void {
    if (this.#factor === Infinity) return;
    this.#judge(device, Math.sqrt(square / (this.#asked.get(device) ?? 0)), "norm of gradients");
  }

  #judge(device: HeadMember, gain: number, what: string): void {
    // Nothing was asked, or heads whose B is zero have answered it.
    if (!(gain > 0)) return;
    const { peer } = device;
    let all = this.#gains.get(device);
    if (all === undefined) this.#gains.set(device, all = new Map());
    let gains = all.get(what);
    if (gains === undefined) all.set(what, gains = []);
    const usual = gains.toSorted((a, b) => a - b)[gains.length >> 1] ?? 0;
    if (gains.length >= FIRST && gain > this.#factor * usual) {
      const error = new ProtocolError(
        `Cannot go on with ${peer.name} as its ${what} must be at most ${this.#factor} times as large as usual for what it was asked: it is ${
          (gain / usual).toPrecision(2)
        } times as large`,
      );
      peer.failWith(error);
      throw error;
    }
    if (gain === Infinity) return;
    gains.push(gain);
    if (gains.length > WINDOW) gains.shift();
  }
}

function sumOfSquares(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! * values[i]!;
  return sum;
}
