/**
 * How runs are compared: what a loss cost, and what loss a budget gave.
 *
 * @module
 */

import type { RunResult } from "../compared_systems.ts";

/** What is spent in a run. */
export type Unit = "bytes" | "seconds";

/** What a run had spent after so many steps, from 0 to all of them; in between it is spent evenly. */
export function spentAt({ steps }: Pick<RunResult, "steps">, at: number, unit: Unit): number {
  let sum = 0;
  for (const [i, step] of steps.entries()) {
    if (i >= at) break;
    sum += Math.min(1, at - i) * (unit === "bytes" ? step.bytes : step.times.total / 1000);
  }
  return sum;
}

/** All that a run has spent. */
export function spent(run: Pick<RunResult, "steps">, unit: Unit): number {
  return spentAt(run, run.steps.length, unit);
}

/**
 * The steps after which a run's evaluation loss is first at most a target, on straight lines between evaluations;
 * `null` if it never is.
 */
export function stepsTo({ curve }: Pick<RunResult, "curve">, target: number): number | null {
  for (const [i, { step, loss }] of curve.entries()) {
    if (loss > target) continue;
    const before = curve[i - 1];
    if (before === undefined) return step;
    return before.step + (step - before.step) * (before.loss - target) / (before.loss - loss);
  }
  return null;
}

/** The evaluation loss when a budget was spent, on straight lines between evaluations; of a run that took less its last. */
export function lossWithin(run: Pick<RunResult, "curve" | "steps">, budget: number, unit: Unit): number {
  let before: { readonly at: number; readonly loss: number } | null = null;
  for (const { step, loss } of run.curve) {
    const at = spentAt(run, step, unit);
    if (at > budget && before !== null) {
      return before.loss + (loss - before.loss) * (budget - before.at) / (at - before.at);
    }
    before = { at, loss };
  }
  return before?.loss ?? NaN;
}

/** Factors of a 95 % interval of a mean by its degrees of freedom, from Student's t distribution. */
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/** A mean of runs, and the interval that the mean of many lies in with 95 %; without an interval for one run. */
export interface Estimate {
  /** The mean. */
  readonly mean: number;
  /** Half the width of the interval; `null` for one run. */
  readonly interval: number | null;
}

/** The mean of some values with its interval; `null` if one of them is missing. */
export function estimate(values: readonly (number | null)[]): Estimate | null {
  const known = values.filter((value) => value !== null && Number.isFinite(value)) as number[];
  if (known.length === 0 || known.length < values.length) return null;
  const mean = known.reduce((a, b) => a + b, 0) / known.length;
  if (known.length === 1) return { mean, interval: null };
  const square = known.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (known.length - 1);
  const factor = STUDENT[known.length - 2] ?? 1.96;
  return { mean, interval: factor * Math.sqrt(square / known.length) };
}
