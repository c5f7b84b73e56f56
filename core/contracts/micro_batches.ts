/**
 * Micro-batches: the sequences of a step in several parts, so that one part computes while another
 * one is on its way.
 *
 * B sequences, T tokens of each.
 *
 * @module
 */

/** Most micro-batches of a step: all of them, and the next step's mask, may wait in a lane of a peer. */
export const MAX_MICRO_BATCHES = 32;

/** A part of a training step whose batch is computed in several parts, one after the other. */
export interface AccumulationStep {
  /** Which one, from 0. */
  readonly index: number;
  /** How many there are. */
  readonly count: number;
  /** Row of the step's whole batch at which it starts. */
  readonly firstRow: number;
}

/** A step that is computed as a whole. */
export const WHOLE_STEP: AccumulationStep = { index: 0, count: 1, firstRow: 0 };

/** Some sequences of a step. */
export interface MicroBatch {
  /** Which one, from 0. */
  readonly index: number;
  /** Sequences, at least one. */
  readonly batch: number;
  /** Rows (tokens of all its sequences). */
  readonly rows: number;
  /** Row of the whole batch at which it starts. */
  readonly firstRow: number;
}

/**
 * Splits a batch by sequences, as evenly as possible; the larger parts come first.
 *
 * @param batch B and T.
 * @param count Micro-batches wanted; never more than there are sequences.
 */
export function splitBatch(
  { batch, length }: { readonly batch: number; readonly length: number },
  count: number,
): MicroBatch[] {
  const parts = Math.min(count, batch);
  let first = 0;
  return Array.from({ length: parts }, (_, index) => {
    const sequences = Math.floor(batch / parts) + (index < batch % parts ? 1 : 0);
    const part = { index, batch: sequences, rows: sequences * length, firstRow: first * length };
    first += sequences;
    return part;
  });
}
