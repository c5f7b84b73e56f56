/**
 * Where the parties of a demo keep their states, and whether a run can go on from them.
 *
 * @module
 */

import { openRunStates, RunStateError, setAside } from "@edgetuner/core";
import { NEWEST } from "../../flags/run_flags.ts";
import { type SavedState, savedState } from "../../output/run_end.ts";

/** All parties of a run with so many devices. */
export function partiesOf(devices: number): string[] {
  return ["edge-server", ...Array.from({ length: devices }, (_, i) => `device-${i + 1}`)];
}

/** Where a party keeps its state. */
export function stateOf(out: string, party: string): string {
  return `${out}/states/${party}`;
}

/**
 * Says whether the run in a folder goes on; of one that does not, the states are kept aside.
 *
 * @param out Folder of the run.
 * @param parties All parties.
 * @param resume What `--resume` says; empty for a new run.
 */
export async function goesOn(out: string, parties: readonly string[], resume: string): Promise<boolean> {
  if (resume !== "" && await canGoOn(out, parties, resume)) return true;
  for (const party of parties) {
    await setAside(stateOf(out, party), (line) => party === "edge-server" && console.error(line));
  }
  return false;
}

/** True if the run in a folder can be resumed; not if it was cut off before all parties had saved once. */
async function canGoOn(out: string, parties: readonly string[], resume: string): Promise<boolean> {
  const stepsOf = async (party: string): Promise<readonly number[]> => {
    try {
      return (await openRunStates(stateOf(out, party))).steps;
    } catch (error) {
      if (error instanceof RunStateError) return [];
      throw error;
    }
  };
  const steps = await Promise.all(parties.map(stepsOf));
  const isCommon = steps[0]!.some((step) => steps.every((all) => all.includes(step)));
  const isBegun = steps.some((all) => all.length > 0);
  if (isCommon || (!isBegun && resume !== NEWEST) || steps.some((all) => all.length > 1)) return true;
  console.error(`The run in ${out} was cut off before its state was saved: a new run begins`);
  return false;
}

/** The newest state that all parties have. */
export async function commonState(
  out: string,
  run: string,
  parties: readonly string[],
): Promise<SavedState | null> {
  const states = await Promise.all(parties.map((party) => savedState(stateOf(out, party), run)));
  const steps = states.flatMap((state) => state === null ? [] : [state.step]);
  return steps.length < parties.length ? null : { folder: out, step: Math.min(...steps) };
}
