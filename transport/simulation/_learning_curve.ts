/**
 * The evaluation loss while a simulated run goes on, from the states that devices save: at no virtual time.
 *
 * @module
 */

import {
  HeadModules,
  maskSumOf,
  type RunSettings,
  type RunState,
  type TokenBatch,
  TokenMean,
} from "@edgetuner/core";
import { evaluate } from "./_simulation.ts";
import type { CurvePoint, SimulationOptions } from "./simulation_options.ts";

/** Evaluates states of devices. */
export class LearningCurve {
  readonly #options: SimulationOptions;
  readonly #every: number;
  /** Heads by step, then by device. */
  readonly #states = new Map<number, Map<number, NonNullable<RunState["heads"]>>>();

  constructor(options: SimulationOptions) {
    const { evaluateEvery = 0, evaluation = [] } = options;
    if (!Number.isInteger(evaluateEvery) || evaluateEvery < 0) {
      throw new RangeError(
        `Cannot simulate as evaluateEvery must be an integer of at least 0: current value is ${evaluateEvery}`,
      );
    }
    this.#options = options;
    this.#every = evaluation.length === 0 ? 0 : evaluateEvery;
  }

  /** The settings of the run, in which devices save. */
  get settings(): RunSettings {
    const { settings } = this.#options;
    return this.#every === 0 || (settings.saveEvery ?? 0) > 0
      ? settings
      : { ...settings, saveEvery: this.#every };
  }

  /** Takes a state of a device, if it is one of the curve's. */
  keep(device: number, { step, heads }: RunState): void {
    if (heads === null || this.#every === 0 || step % this.#every !== 0) return;
    const devices = this.#states.get(step) ?? new Map<number, typeof heads>();
    // What is done again after the edge server was lost takes the place of what was done before.
    devices.set(device, heads);
    this.#states.set(step, devices);
  }

  /**
   * The losses.
   *
   * @param devices Devices with heads.
   * @param ends Losses before the first step and after the last; `null` for none.
   */
  async points(
    devices: number,
    ends: { readonly before: number | null; readonly after: number | null },
  ): Promise<CurvePoint[]> {
    const { settings } = this.#options;
    const points: CurvePoint[] = ends.before === null ? [] : [{ step: 0, loss: ends.before }];
    for (const [step, states] of [...this.#states].sort(([a], [b]) => a - b)) {
      // Where a device was away, what all heads are is not known.
      if (step >= settings.steps || states.size < devices) continue;
      points.push({ step, loss: await this.#evaluate([...states.values()]) });
    }
    const { after } = ends;
    if (after !== null && Number.isFinite(after)) points.push({ step: settings.steps, loss: after });
    return points;
  }

  async #evaluate(heads: readonly NonNullable<RunState["heads"]>[]): Promise<number> {
    const { model: { engine }, settings } = this.#options;
    const modules: HeadModules[] = [];
    try {
      for (const { model, range, state } of heads.toSorted((a, b) => a.range.first - b.range.first)) {
        const own = new HeadModules(engine, { ...settings, ...model, range });
        modules.push(own);
        own.restore(state);
      }
      return (await evaluate(this.#options, modules))!;
    } finally {
      for (const own of modules) own[Symbol.dispose]();
    }
  }
}

/** The curve of a run on one machine, whose batches come from one source. */
export class LocalCurve {
  /** What has been evaluated. */
  readonly points: CurvePoint[];
  readonly #options: SimulationOptions;
  #mean = new TokenMean();
  /** Batches of the evaluation that is under way. */
  #done = 0;

  /** @param before The loss before the first step; `null` without evaluation batches. */
  constructor(options: SimulationOptions, before: number | null) {
    this.#options = options;
    this.points = before === null ? [] : [{ step: 0, loss: before }];
  }

  /** The evaluation batch that comes before the next training step; `null` if none does. */
  due(step: number): TokenBatch | null {
    const { evaluation = [], evaluateEvery = 0, settings } = this.#options;
    const isDue = evaluateEvery > 0 && step > 0 && step % evaluateEvery === 0 && step < settings.steps &&
      this.points.at(-1)?.step !== step;
    return isDue ? evaluation[this.#done] ?? null : null;
  }

  /** Takes the loss of the batch. */
  take(step: number, loss: number): void {
    const { evaluation = [] } = this.#options;
    this.#mean.add(loss, maskSumOf(evaluation[this.#done++]!));
    if (this.#done < evaluation.length) return;
    this.points.push({ step, loss: this.#mean.value });
    [this.#mean, this.#done] = [new TokenMean(), 0];
  }
}
