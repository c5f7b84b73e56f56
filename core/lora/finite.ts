/**
 * Ending a run whose numbers are not finite any more: nothing that is learnt from there on is of use.
 *
 * @module
 */

import { firstNotFinite } from "../files/finite_values.ts";
import { ModelFileError, TrainingError } from "../contracts/errors.ts";
import type { HeadModulesState } from "./head_arena.ts";
import type { NamedArray } from "../files/named_arrays.ts";

const ADVICE = "lower the learning rate, clip the gradients, or check data and codec";

/** @throws {TrainingError} If a loss is not finite. */
export function requireFiniteLoss(step: number, loss: number, mode: "train" | "evaluate"): void {
  if (Number.isFinite(loss)) return;
  const what = mode === "train" ? "loss" : "validation loss";
  throw new TrainingError(
    `Cannot go on training as the ${what} must be finite: step ${step} gives ${loss}; ${ADVICE}`,
  );
}

/** @throws {TrainingError} If the sum of squares of a step's gradients is not finite. */
export function requireFiniteNorm(step: number, square: number): void {
  if (Number.isFinite(square)) return;
  throw new TrainingError(
    `Cannot go on training as the norm of the gradients must be finite: its square in step ${step} is ${square}; ${ADVICE}`,
  );
}

/** @throws {TrainingError} If weights or moments of head modules are not finite after so many steps. */
export function requireFiniteHeads(step: number, state: HeadModulesState): void {
  for (const part of ["weights", "m", "v"] as const) {
    for (const [layer, heads] of state[part].entries()) {
      for (const { a, b } of heads.flat()) {
        const [inA, inB] = [firstNotFinite(a), firstNotFinite(b)];
        if (inA < 0 && inB < 0) continue;
        const bad = inA < 0 ? b[inB] : a[inA];
        throw new TrainingError(
          `Cannot go on training as weights and moments of the heads must be finite: after ${step} steps one of layer ${layer} is ${bad}; ${ADVICE}`,
        );
      }
    }
  }
}

/** @throws {ModelFileError} If a value of what is to be saved is not finite. */
export function requireFiniteArrays(path: string, arrays: ReadonlyMap<string, NamedArray>): void {
  for (const [name, { data }] of arrays) {
    const at = firstNotFinite(data);
    if (at < 0) continue;
    throw new ModelFileError(
      `Cannot save ${path} as every weight must be finite: one of "${name}" is ${
        data[at]
      }; what was saved before stays`,
    );
  }
}
