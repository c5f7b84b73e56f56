/**
 * The learning rate of each mode, by a small sweep that is part of a comparison.
 *
 * @module
 */

import type { InputModeName, RunSettings } from "@edgetuner/core";
import type { RunQueue } from "./run_queue.ts";

/** A rate that was tried. */
export interface TriedRate {
  readonly mode: InputModeName;
  readonly rate: number;
  /** The validation loss at the end; `null` if a number was not finite. */
  readonly loss: number | null;
}

/**
 * Tries rates for each mode, unpruned on one machine, and takes the best.
 *
 * @param modes Modes with their settings.
 * @param factors Factors of the rate in the settings; a single one is taken as it is.
 * @param sweep Steps of each run, and its seed.
 * @returns The best rate of each mode, and all that were tried.
 */
export async function bestRates(
  modes: ReadonlyMap<InputModeName, RunSettings>,
  factors: readonly number[],
  { queue, steps, seed }: { readonly queue: RunQueue; readonly steps: number; readonly seed: number },
): Promise<{ readonly rates: ReadonlyMap<InputModeName, number>; readonly tried: readonly TriedRate[] }> {
  const rates = new Map<InputModeName, number>();
  const tried: TriedRate[] = [];
  for (const [mode, settings] of modes) {
    const { optimizer } = settings;
    const own = factors.map((factor) => Number((factor * optimizer.learningRate).toPrecision(3)));
    let best: TriedRate | null = null;
    for (const rate of own.length === 1 ? [] : own) {
      const run = await queue.run({
        ...{ name: `rate ${mode} ${rate}`, system: { kind: "serverTuner" }, steps, seed, texts: false },
        settings: { ...settings, optimizer: { ...optimizer, learningRate: rate } },
      });
      const loss = run.refused === null ? run.validLoss.after : null;
      const one: TriedRate = { mode, rate, loss };
      tried.push(one);
      if (loss !== null && loss < (best?.loss ?? Infinity)) best = one;
    }
    rates.set(mode, best?.rate ?? own[0]!);
  }
  return { rates, tried };
}
