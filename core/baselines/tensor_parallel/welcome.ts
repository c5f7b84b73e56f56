/**
 * What the server of a tensor-parallel run tells a device at the start, beyond a run's welcome.
 *
 * @module
 */

import { ProtocolError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import { readWelcome, type Welcome } from "../../session/welcome.ts";
import type { MetaOf } from "../../protocol/messages.ts";
import type { Share } from "./shares.ts";

/** A welcome with the device's share; `null` for a device that only has the data. */
export interface TensorParallelWelcome extends Welcome {
  /** What the device holds of every layer. */
  readonly share: Share | null;
  /** Added to the norms' variances. */
  readonly epsilon: number;
}

/**
 * Reads a welcome.
 *
 * @throws {ProtocolError} If a field is missing or does not fit another one.
 */
export function readTensorParallelWelcome(meta: MetaOf<"welcome">): TensorParallelWelcome {
  const welcome = readWelcome(meta);
  const { columns = null, epsilon } = meta;
  const { range, model } = welcome;
  const last = 4 * model.hidden;
  const fits = (columns === null) === (range === null) &&
    (columns === null ||
      (columns.first % 4 === 0 && columns.count % 4 === 0 && columns.first + columns.count <= last));
  if (!fits || epsilon === undefined || !(epsilon > 0 && epsilon < 1)) {
    throw new ProtocolError(
      `Cannot join as the server's welcome must be complete: columns must lie in 0 .. ${last} and epsilon in 0 .. 1: current values are ${
        showValue(columns)
      } and ${epsilon}`,
    );
  }
  return { ...welcome, share: range === null ? null : { heads: range, columns: columns! }, epsilon };
}
