/**
 * Pruner samples of a run, in a file.
 *
 * @module
 */

import {
  type Pruner,
  type PrunerContext,
  type PrunerSample,
  type SampleSource,
  SampleWriter,
} from "@edgetuner/core";
import { collectingPruner } from "@edgetuner/plugins";

/** What is known of samples before their run has begun. */
type Collected = Pick<SampleSource, "hidden" | "fingerprint" | "baseNorm" | "settings">;

/** A file of samples, and the pruner that fills it. Which devices take part is known when a run has begun. */
export class CollectedSamples implements Disposable {
  /** Keeps every head and appends what the steps show. */
  readonly pruner: Pruner;
  readonly #path: string;
  readonly #model: Collected;
  readonly #last = new Map<number, number>();
  #writer: SampleWriter | null = null;

  /**
   * @param path The file; it is opened with the first sample.
   * @param model What is known of the model, and of settings beyond those that the pruner is told.
   * @param existing Samples that the file holds: a step that is there already is not written again, so that a
   * run that is repeated goes on where the file ends.
   */
  constructor(
    path: string,
    model: Collected,
    existing: readonly PrunerSample[] = [],
  ) {
    this.#path = path;
    this.#model = model;
    for (const { seed, step } of existing) this.#last.set(seed, step);
    this.pruner = collectingPruner({ write: (sample, context) => this.#write(sample, context) }) as Pruner;
  }

  /** Samples in the file; `null` before the first new one. */
  get count(): number | null {
    return this.#writer?.count ?? null;
  }

  /** Bytes of the file; `null` before the first new sample. */
  get bytes(): number | null {
    return this.#writer?.bytes ?? null;
  }

  async #write(sample: PrunerSample, context: PrunerContext): Promise<void> {
    const { layers, heads, headsPerDevice, capacities } = context;
    const settings = { ...context.settings, ...this.#model.settings };
    const source = { layers, heads, headsPerDevice, capacities, ...this.#model, settings };
    // Before steps that are there already are run again: samples of other settings are refused at once.
    this.#writer ??= await SampleWriter.open(this.#path, source);
    if (sample.step <= (this.#last.get(sample.seed) ?? -1)) return;
    await this.#writer.write(sample);
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#writer?.[Symbol.dispose]();
  }
}
