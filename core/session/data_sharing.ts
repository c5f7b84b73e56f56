/**
 * How a run shares several people's data.
 *
 * @module
 */

import { DATA_SHARES, type DataShare } from "../train/data_turns.ts";

/** Most devices with data in a run. */
export const MOST_OWNERS = 1024;

/** How a run shares several people's data. */
export interface DataSharing {
  /** Owners that must have joined before the run starts. @default {1} */
  readonly devices?: number | undefined;
  /** How turns are shared out: by numbers of examples, or alike. @default {"equal"} */
  readonly share?: DataShare | undefined;
  /** Weights of owners by their names, in place of `share`; 1 for whoever is not named. */
  readonly weights?: Readonly<Record<string, number>> | undefined;
  /** True if the parts of a step (`RunSettings.accumulate`) are drawn one by one, of several owners. @default {false} */
  readonly mix?: boolean | undefined;
  /** Training steps from one validation to the next; 0 for those before and after alone. @default {0} */
  readonly evalEvery?: number | undefined;
  /** True to tell devices which heads are the best by the validation on all data. @default {false} */
  readonly keepBest?: boolean | undefined;
}

/**
 * Checks how data is to be shared.
 *
 * @param sharing How.
 * @param run Parts of a training step, and whether the pruner probes whole batches.
 * @throws {RangeError} If a number is out of range, or the run cannot share so.
 */
export function checkSharing(
  { devices = 1, share = "equal", weights = {}, mix = false, evalEvery = 0 }: DataSharing,
  { accumulate, probes }: { readonly accumulate: number; readonly probes: boolean },
): void {
  const refuse = (rule: string, value: unknown): never => {
    throw new RangeError(`Cannot share data as ${rule}: current value is ${value}`);
  };
  if (!Number.isInteger(devices) || devices < 1 || devices > MOST_OWNERS) {
    refuse(`devices must be an integer from 1 to ${MOST_OWNERS}`, devices);
  }
  if (!DATA_SHARES.includes(share)) refuse(`share must be one of ${DATA_SHARES.join(", ")}`, share);
  for (const [name, weight] of Object.entries(weights)) {
    if (!(weight > 0 && Number.isFinite(weight))) refuse(`the weight of "${name}" must be positive`, weight);
  }
  if (!Number.isInteger(evalEvery) || evalEvery < 0) {
    refuse("evalEvery must be an integer of at least 0", evalEvery);
  }
  if (mix && accumulate < 2) refuse("accumulate must be at least 2 where a step is mixed", accumulate);
  if (probes) {
    refuse("the pruner must not probe batches, which another owner's may take the place of", "it does");
  }
}
