/**
 * A new run that begins with what was learnt before.
 *
 * @module
 */

import { type Adapter, projectionsOf } from "@edgetuner/core";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { UsageError } from "../flags/flags.ts";

/** The adapter that a new run begins with. */
export const START_FLAG = {
  adapter: {
    ...COMMON_FLAGS.adapter,
    help:
      "begin a new run with what was learnt before: adapter folder, or the parts that devices saved: a,b,c",
  },
};

/** Flags that an adapter has the values of. */
interface LoraFlags {
  readonly adapter: string;
  readonly mode: string;
  readonly targets: string;
  readonly rank: number;
  readonly alpha: number;
  readonly projections: string;
  readonly "projection-seed": number;
  readonly "shared-a": boolean;
  readonly "total-rank": number;
}

/**
 * Flags with mode, targets, rank, alpha and projections of the adapter that the run begins with.
 *
 * @param program Name of the program, for the message.
 * @param flags All flags.
 * @param given Those that were given.
 * @param adapter What `--adapter` names; `null` if nothing.
 * @throws {UsageError} If one was given that the adapter has otherwise.
 */
export function withAdapter<F extends LoraFlags>(
  program: string,
  { flags, given }: { readonly flags: F; readonly given: Partial<LoraFlags> },
  adapter: Adapter | null,
): F {
  if (adapter === null) return flags;
  if (flags["total-rank"] > 0) {
    throw new UsageError(
      `Cannot run ${program} with both --adapter and --total-rank: an adapter has its rank`,
    );
  }
  const { mode, targets, rank, alpha } = adapter.lora;
  const made = projectionsOf(adapter.lora);
  const values = {
    ...{ mode, targets: targets.join(","), rank, alpha },
    ...(made && { projections: made.from, "projection-seed": made.seed, "shared-a": made.shared }),
  };
  for (const name of Object.keys(values) as (keyof typeof values)[]) {
    const wanted = given[name];
    if (wanted === undefined || `${wanted}` === `${values[name]}`) continue;
    throw new UsageError(
      `Cannot run ${program} as --${name} must be ${
        values[name]
      }, as in the adapter of --adapter, or left out: current value is ${wanted}`,
    );
  }
  return { ...flags, ...values };
}
