/**
 * Whether a state is of the run that is to go on.
 *
 * @module
 */

import { RunStateError } from "../contracts/errors.ts";
import type { HeadRange } from "../lora/allocation.ts";
import type { BaseWeights } from "../model/weights.ts";
import { checkRunSettings, type RunSettings } from "../train/run_settings.ts";
import type { RunState } from "./run_state.ts";

/**
 * Checks that a state is of the run that is to go on.
 *
 * @param state The state.
 * @param expected What it must have been made with; what is left out is not checked.
 * @throws {RunStateError} If settings, heads, base model, the format of its weights or data are others; the
 * message says which and how.
 */
export function requireSameRun(
  state: RunState,
  expected: {
    readonly settings?: RunSettings;
    readonly fingerprint?: string;
    readonly dataFingerprint?: string;
    readonly range?: HeadRange | null;
    readonly baseWeights?: BaseWeights | undefined;
  },
): void {
  const refuse = (what: string, saved: unknown, now: unknown): never => {
    throw new RunStateError(
      `Cannot go on from step ${state.step} of run "${state.run}" as ${what} must be ${
        short(saved)
      }, as in the saved state: current value is ${short(now)}`,
    );
  };
  const { settings, fingerprint, dataFingerprint, range, baseWeights } = expected;
  if (settings !== undefined) {
    const different = firstDifference(state.settings, goingOn(state, checkRunSettings(settings)));
    if (different !== null) refuse(...different);
  }
  if (range !== undefined) {
    const { first = null, count = null } = state.heads?.range ?? {};
    if (first !== (range?.first ?? null) || count !== (range?.count ?? null)) {
      refuse("the range of heads", state.heads?.range ?? null, range);
    }
  }
  if (fingerprint !== undefined && fingerprint !== state.fingerprint) {
    refuse("the base model's fingerprint", state.fingerprint.slice(0, 12), fingerprint.slice(0, 12));
  }
  const held = state.baseWeights;
  if (baseWeights !== undefined && held !== undefined && baseWeights !== held) {
    refuse("the format of the base's weights", held, baseWeights);
  }
  if (dataFingerprint !== undefined && dataFingerprint !== state.data?.fingerprint) {
    refuse(
      "the fingerprint of data and batches",
      state.data?.fingerprint.slice(0, 12) ?? null,
      dataFingerprint.slice(0, 12),
    );
  }
}

/** Settings as they are compared: a run may have more steps, with their warm-up; one that is over does not count. */
function goingOn(
  { step, settings: { steps, optimizer: { warmupSteps } } }: RunState,
  now: Required<RunSettings>,
): Required<RunSettings> {
  const isFree = now.steps > steps || step >= Math.max(warmupSteps, now.optimizer.warmupSteps);
  const optimizer = isFree ? { ...now.optimizer, warmupSteps } : now.optimizer;
  return { ...now, steps: Math.min(steps, now.steps), optimizer };
}

/** What differs first between settings: name, saved value, present value. How often to save does not matter. */
function firstDifference(
  saved: Readonly<Record<string, unknown>> | Required<RunSettings>,
  now: Readonly<Record<string, unknown>> | Required<RunSettings>,
): [name: string, saved: unknown, now: unknown] | null {
  for (const [name, value] of Object.entries(saved)) {
    if (name === "saveEvery") continue;
    const other = (now as Record<string, unknown>)[name];
    const nested = typeof value === "object" && value !== null && !Array.isArray(value);
    if (nested && typeof other === "object" && other !== null) {
      const inner = firstDifference(value as Record<string, unknown>, other as Record<string, unknown>);
      if (inner !== null) return [`${name}.${inner[0]}`, inner[1], inner[2]];
    } else if (JSON.stringify(value) !== JSON.stringify(other)) return [name, value, other];
  }
  return null;
}

function short(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 80);
}
