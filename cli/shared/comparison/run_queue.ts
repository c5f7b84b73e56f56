/**
 * Runs one after the other, with one progress bar over all of them.
 *
 * @module
 */

import type { RunSettings } from "@edgetuner/core";
import { ProgressBar } from "../../output/progress.ts";
import type { RunResult, System, SystemComparison } from "../compared_systems.ts";

/** One run. */
export interface QueuedRun {
  /** What the bar calls it. */
  readonly name: string;
  /** What is trained. */
  readonly system: System;
  /** Training steps. */
  readonly steps: number;
  /** Seed of everything that is drawn. */
  readonly seed: number;
  /** False to generate no texts. @default {true} */
  readonly texts?: boolean;
}

/** Runs with one progress bar over all of them. */
export class RunQueue implements Disposable {
  readonly #comparison: SystemComparison;
  readonly #settings: RunSettings;
  readonly #bar: ProgressBar;
  #done = 0;

  /** @param total Steps of all runs. */
  constructor(comparison: SystemComparison, settings: RunSettings, total: number) {
    this.#comparison = comparison;
    this.#settings = settings;
    this.#bar = new ProgressBar(total, { unit: "step" });
  }

  /**
   * Does a run.
   *
   * @throws What ended it, unless a system was refused for what it needs.
   */
  async run({ name, system, steps, seed, texts = true }: QueuedRun): Promise<RunResult> {
    const { optimizer } = this.#settings;
    const warmupSteps = Math.min(optimizer.warmupSteps, steps);
    const settings = { ...this.#settings, steps, seed, optimizer: { ...optimizer, warmupSteps } };
    const onStep = () => this.#bar.draw(++this.#done, name);
    const result = await this.#comparison.run(system, settings, { onStep, texts });
    if (result.refused !== null) this.#done += steps - result.steps.length;
    return result;
  }

  [Symbol.dispose](): void {
    this.#bar.end();
  }
}
