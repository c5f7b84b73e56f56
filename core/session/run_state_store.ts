/**
 * States of runs in a store, such as those that browsers have.
 *
 * @module
 */

import type { ByteStore } from "../files/byte_store.ts";
import { RunStateError } from "../contracts/errors.ts";
import { readRunState, type RunState, runStateBytes, type RunStateSource } from "./run_state.ts";

/** States of a run that stay: if a crash comes between two parties' writes, all still have the older one. */
const KEPT = 2;
const NAME = /^(.+)\.step-(\d{8,10})$/;

/**
 * Keeps the state of a run; of one run the two newest stay.
 *
 * @throws {ModelFileError} If a weight or a moment is not finite; nothing is written then.
 */
export async function storeRunState(store: ByteStore, state: RunState): Promise<void> {
  const { run, step } = state;
  await store.write(nameOf(run, step), await runStateBytes(state));
  const steps = await stepsOf(store, run);
  const earlier = steps.filter((s) => s <= step);
  const later = steps.filter((s) => s > step); // of a future that did not come to pass
  for (const s of [...earlier.slice(0, -KEPT), ...later]) await store.remove(nameOf(run, s));
}

/**
 * Finds the states of a run. Those that are damaged are left out.
 *
 * @returns `null` if there is none that is intact.
 */
export async function storedRunStates(store: ByteStore, run: string): Promise<RunStateSource | null> {
  const load = async (step: number) => {
    const bytes = await store.read(nameOf(run, step));
    if (bytes === null) {
      throw new RunStateError(`Cannot go on as there must be a state of step ${step}: there is none`);
    }
    const state = await readRunState(bytes, `the state of step ${step}`);
    if (state.run === run && state.step === step) return state;
    throw new RunStateError(
      `Cannot go on as the state must be of step ${step} of run "${run}": it is of step ${state.step} of run "${state.run}"`,
    );
  };
  const steps: number[] = [];
  const damaged: RunStateError[] = [];
  for (const step of await stepsOf(store, run)) {
    try {
      await load(step);
      steps.push(step);
    } catch (error) {
      if (!(error instanceof RunStateError)) throw error;
      damaged.unshift(error);
    }
  }
  return steps.length === 0 ? null : { run, steps, damaged, load };
}

/** Forgets all states of a run. */
export async function forgetRunStates(store: ByteStore, run: string): Promise<void> {
  for (const step of await stepsOf(store, run)) await store.remove(nameOf(run, step));
}

function nameOf(run: string, step: number): string {
  return `${encodeURIComponent(run).replaceAll("%", "_")}.step-${String(step).padStart(8, "0")}`;
}

async function stepsOf(store: ByteStore, run: string): Promise<number[]> {
  const names = await store.names();
  return names.flatMap((name) => {
    const step = Number(NAME.exec(name)?.[2] ?? NaN);
    return name === nameOf(run, step) ? [step] : [];
  }).sort((a, b) => a - b);
}
