/**
 * Runs one after the other, with one progress bar over all of them.
 *
 * @module
 */

import type { RunSettings } from "@edgetuner/core";
import type { LinkProfile } from "@edgetuner/transport";
import { ProgressBar } from "../../output/progress.ts";
import type { RunResult, System, SystemComparison } from "../compared_systems.ts";
import type { FinishedRuns } from "./finished_runs.ts";

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
  /** Other settings than those of all runs; steps and seed are set. */
  readonly settings?: RunSettings;
  /** Name and profile of another link. @default {that of the comparison} */
  readonly link?: LinkProfile;
}

/** What runs of a queue have in common. */
export interface QueueOptions {
  /** Settings of all runs. */
  readonly settings: RunSettings;
  /** Steps of all runs, for the progress bar. */
  readonly total: number;
  /** Steps from one evaluation to the next. */
  readonly evalEvery: number;
  /** Where finished runs are kept. */
  readonly store: FinishedRuns;
}

/** Runs with one progress bar over all of them. */
export class RunQueue implements Disposable {
  /** Runs that were there already. */
  found = 0;
  readonly #comparison: SystemComparison;
  readonly #options: QueueOptions;
  readonly #bar: ProgressBar;
  #done = 0;

  /** Begins a queue. */
  constructor(comparison: SystemComparison, options: QueueOptions) {
    this.#comparison = comparison;
    this.#options = options;
    this.#bar = new ProgressBar(options.total, { unit: "step" });
  }

  /**
   * Does a run, or takes it from the store.
   *
   * @throws What ended it, unless a system was refused for what it needs.
   */
  async run({ name, system, steps, seed, texts = true, ...own }: QueuedRun): Promise<RunResult> {
    const { store, evalEvery } = this.#options;
    const given = own.settings ?? this.#options.settings;
    const { optimizer } = given;
    const warmupSteps = Math.min(optimizer.warmupSteps, steps);
    const settings = { ...given, steps, seed, optimizer: { ...optimizer, warmupSteps } };
    const key = { name, kind: system.kind, settings, texts, link: own.link ?? null };
    const before = await store.get(key);
    if (before !== null) {
      this.found++;
      this.#bar.draw(this.#done += steps, name);
      return before;
    }
    const onStep = () => this.#bar.draw(++this.#done, name);
    const result = await this.#comparison.run(system, settings, { onStep, texts, evalEvery, link: own.link });
    if (result.refused !== null) this.#done += steps - result.steps.length;
    await store.put(key, result);
    return result;
  }

  [Symbol.dispose](): void {
    this.#bar.end();
  }
}
