/**
 * The byte ledger: what was sent and received, by kind of message.
 *
 * @module
 */

import type { FrameKind } from "./frame.ts";

/** Direction as seen from the one who keeps the ledger. */
export type Direction = "sent" | "received";

/** One line of a ledger. */
export interface LedgerEntry {
  /** Kind of message. */
  readonly kind: FrameKind;
  /** Direction. */
  readonly direction: Direction;
  /** Number of frames. */
  frames: number;
  /** Bytes of tensors: what METHOD's formula counts. */
  tensorBytes: number;
  /** Bytes of whole frames, envelope included. */
  frameBytes: number;
}

/**
 * Counts frames and bytes by kind and direction.
 *
 * @category Training
 */
export class ByteLedger {
  readonly #entries = new Map<string, LedgerEntry>();

  /** Counts one frame. */
  record(kind: FrameKind, direction: Direction, tensorBytes: number, frameBytes: number): void {
    const key = `${direction} ${kind}`;
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      this.#entries.set(key, entry = { kind, direction, frames: 0, tensorBytes: 0, frameBytes: 0 });
    }
    entry.frames++;
    entry.tensorBytes += tensorBytes;
    entry.frameBytes += frameBytes;
  }

  /** The lines so far, as copies, sorted by direction and kind. */
  entries(): LedgerEntry[] {
    return [...this.#entries.values()].map((e) => ({ ...e })).sort((a, b) =>
      `${a.direction} ${a.kind}`.localeCompare(`${b.direction} ${b.kind}`)
    );
  }

  /** Bytes of whole frames in both directions. */
  get totalBytes(): number {
    let sum = 0;
    for (const entry of this.#entries.values()) sum += entry.frameBytes;
    return sum;
  }
}
