/**
 * What the server of a tensor-parallel run tells a device at the start, beyond a run's welcome.
 *
 * @module
 */

import { ProtocolError } from "../errors.ts";
import { readWelcome, type Welcome } from "../session/settings.ts";
import type { Share } from "./shares.ts";

/** A welcome with the device's share; `null` for a device that only has the data. */
export interface TensorParallelWelcome extends Welcome {
  /** What the device holds of every layer. */
  readonly share: Share | null;
  /** Added to the norms' variances. */
  readonly epsilon: number;
}

/**
 * Reads a welcome from a frame.
 *
 * @throws {ProtocolError} If a field is missing or out of range.
 */
export function readTensorParallelWelcome(meta: Readonly<Record<string, unknown>>): TensorParallelWelcome {
  const welcome = readWelcome(meta);
  const { columns, epsilon } = meta as {
    columns?: { first?: unknown; count?: unknown } | null;
    epsilon?: unknown;
  };
  const { range, model } = welcome;
  const isIndex = (x: unknown): x is number =>
    Number.isInteger(x) && (x as number) >= 0 && (x as number) % 4 === 0;
  const first = columns?.first;
  const count = columns?.count;
  const fits = range === null
    ? columns === null
    : isIndex(first) && isIndex(count) && count > 0 && first + count <= 4 * model.hidden;
  if (!fits || typeof epsilon !== "number" || !(epsilon > 0 && epsilon < 1)) {
    throw new ProtocolError(
      `Cannot join as the server's welcome must be complete: columns must lie in 0 .. ${
        4 * model.hidden
      } and epsilon in 0 .. 1: current values are ${JSON.stringify(columns)} and ${epsilon}`,
    );
  }
  const share = range === null
    ? null
    : { heads: range, columns: { first: first as number, count: count as number } };
  return { ...welcome, share, epsilon };
}
