/**
 * What a device was told last and has not answered: if its connection is lost then, nobody knows whether it came.
 *
 * @module
 */

import type { WireTensor } from "../protocol/frame.ts";
import type { HeadMember } from "./head_members.ts";

/** A message that has no answer of its own, and without which a device's update is missing. */
export interface Untold {
  readonly kind: "deltaGradient" | "clip";
  readonly step: number;
  readonly layer?: number;
  readonly microBatch?: number;
  readonly tensors: readonly WireTensor[];
}

interface Asked {
  /** Messages so far. */
  count: number;
  /** Those that may not have come, with their numbers. */
  kept: { readonly at: number; readonly message: Untold }[];
}

/** Keeps the last messages of each device until something answers them: a few of one layer. */
export class Unanswered {
  readonly #of = new Map<HeadMember, Asked>();

  /**
   * A message leaves.
   *
   * @param message It, if it has no answer of its own.
   * @returns To be called once it is answered: then all before it came too.
   */
  tell(device: HeadMember, message: Untold | null): () => void {
    const own = this.#of.get(device) ?? { count: 0, kept: [] };
    this.#of.set(device, own);
    const at = own.count++;
    if (message !== null) own.kept.push({ at, message });
    return () => {
      own.kept = own.kept.filter((k) => k.at > at);
    };
  }

  /** All that a device was told has come. */
  hear(device: HeadMember): void {
    this.tell(device, null)();
  }

  /** A step begins again: what was told of it counts no more. */
  forget(step: number): void {
    for (const own of this.#of.values()) own.kept = own.kept.filter(({ message }) => message.step !== step);
  }

  /** What may not have come of a step, in its order. */
  of(device: HeadMember, step: number | undefined): Untold[] {
    const kept = this.#of.get(device)?.kept ?? [];
    return kept.map(({ message }) => message).filter((message) => message.step === step);
  }
}
