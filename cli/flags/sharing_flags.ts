/**
 * Flags of several people's data: who takes a turn when, and when all are validated.
 *
 * @module
 */

import { DATA_SHARES, type DataShare, type DataSharing } from "@edgetuner/core";
import { PLAN_FLAGS } from "../shared/training_plan.ts";
import { type FlagValues, integer, text, toggle, UsageError } from "./flags.ts";
import { requireFlag } from "./run_flags.ts";

const SHARED = "several people's data:";

/** What an edge server does with several people's data. */
export const SHARING_FLAGS = {
  "data-devices": integer("N", 1, "devices with data to wait for; of 2 or more each takes its turns", {
    min: 1,
    max: 1024,
  }),
  "data-share": text(
    "HOW",
    "",
    `${SHARED} turns by numbers of examples, or alike; more devices with data may join late`,
    ["", ...DATA_SHARES],
  ),
  "data-weights": text(
    "NAME=W,...",
    "",
    `${SHARED} turns by weights of devices' names, 1 for those not named`,
  ),
  "data-mix": toggle(`${SHARED} the parts of each step (--accumulate) are several owners'`),
  "eval-every": {
    ...PLAN_FLAGS["eval-every"],
    help: `${SHARED} validate on all of it every so many steps too; 0 = only before and after`,
  },
  "keep-best": {
    ...PLAN_FLAGS["keep-best"],
    help: `${SHARED} devices also save the heads with the best validation loss of all, to <save>-best`,
  },
};

/** Weights by name. */
function weightsOf(list: string): Readonly<Record<string, number>> {
  return Object.fromEntries(
    list.split(",").map((item) => {
      const [, name, weight] = /^(.+)=([^=]+)$/.exec(item.trim()) ?? [];
      const value = Number(weight);
      if (name !== undefined && value > 0 && Number.isFinite(value)) return [name, value];
      throw new UsageError(
        `Cannot use --data-weights as each must be NAME=W with a positive number, such as attic=2: current value is "${item}"`,
      );
    }),
  );
}

/**
 * How data is shared; `undefined` where there is one device with data.
 *
 * @throws {UsageError} If flags do not go together.
 */
export function sharingOf(
  program: string,
  flags: FlagValues<typeof SHARING_FLAGS> & { readonly generate: boolean; readonly accumulate: number },
): DataSharing | undefined {
  const { "data-devices": devices, "data-share": share, "data-weights": weights, "data-mix": mix } = flags;
  const isShared = devices > 1 || share !== "" || weights !== "" || mix;
  for (const flag of ["eval-every", "keep-best"] as const) {
    requireFlag(program, { flag, needs: "data-devices", isMet: isShared || !flags[flag] });
  }
  if (!isShared) return undefined;
  if (flags.generate) {
    throw new UsageError(`Cannot run ${program} as data is shared in training alone: --generate is given`);
  }
  if (share !== "" && weights !== "") {
    throw new UsageError("Cannot use --data-share and --data-weights together: either says whose turn it is");
  }
  if (mix && flags.accumulate < 2) {
    throw new UsageError(
      `Cannot use --data-mix as --accumulate must be at least 2, the parts of a step: current value is ${flags.accumulate}`,
    );
  }
  return {
    devices,
    share: share === "" ? "equal" : share as DataShare,
    ...(weights !== "" && { weights: weightsOf(weights) }),
    mix,
    evalEvery: flags["eval-every"],
    keepBest: flags["keep-best"],
  };
}
