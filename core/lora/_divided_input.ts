/**
 * What projecting modes send, divided over several virtual devices on one GPU: one product gives the input of all of
 * them, and one takes their gradients, as behind a network.
 *
 * T tokens, n kept heads, p parts of the input.
 *
 * @module
 */

import type { Tensor } from "@edgetuner/kernels";

/** A device's kept heads among those of all devices. */
export interface HeadShare {
  /** Its kept heads. */
  readonly heads: number;
  /** Kept heads of the devices before it. */
  readonly before: number;
}

/** Copies a device's rows of each part from one tensor to the other. */
function copyParts(
  { from, to, parts }: { readonly from: Tensor; readonly to: Tensor; readonly parts: number },
  rowsOf: (part: number) => { readonly fromRow: number; readonly toRow: number; readonly rows: number },
): void {
  for (let part = 0; part < parts; part++) from.engine.copyRows(from, to, rowsOf(part));
}

/**
 * Each device's rows of the input of all kept heads, [p * n * T, columns].
 *
 * @returns [p * n_m * T, columns] of each device; the caller's to dispose.
 */
export function divideInput(whole: Tensor, shares: readonly HeadShare[], parts: number): Tensor[] {
  const { engine, columns, label } = whole;
  const all = shares.reduce((sum, { heads }) => sum + heads, 0);
  const length = whole.rows / parts / all;
  return shares.map(({ heads, before }) => {
    const to = engine.tensor(parts * heads * length, columns, label);
    copyParts({ from: whole, to, parts }, (part) => ({
      fromRow: (part * all + before) * length,
      toRow: part * heads * length,
      rows: heads * length,
    }));
    return to;
  });
}

/** The way back: what `divideInput` divided, as one tensor. */
export function joinInput(divided: readonly Tensor[], shares: readonly HeadShare[], parts: number): Tensor {
  const { engine, columns, label } = divided[0]!;
  const all = shares.reduce((sum, { heads }) => sum + heads, 0);
  const length = divided[0]!.rows / parts / shares[0]!.heads;
  const whole = engine.tensor(parts * all * length, columns, label);
  for (const [i, { heads, before }] of shares.entries()) {
    copyParts({ from: divided[i]!, to: whole, parts }, (part) => ({
      fromRow: part * heads * length,
      toRow: (part * all + before) * length,
      rows: heads * length,
    }));
  }
  return whole;
}
