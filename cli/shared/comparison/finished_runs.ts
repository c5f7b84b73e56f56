/**
 * Finished runs of a comparison in files, so that a long one goes on where it was interrupted.
 *
 * @module
 */

import { writeWhole } from "@edgetuner/core";
import type { RunResult } from "../compared_systems.ts";

/** What a file holds. */
interface Stored {
  /** What was run. */
  readonly key: unknown;
  /** What came of it. */
  readonly result: unknown;
}

/** Runs in a folder, a file each. */
export class FinishedRuns {
  readonly #folder: string;
  readonly #common: unknown;

  /**
   * @param folder Where the files are.
   * @param common What else decides what a run gives: runs of other settings are not taken.
   */
  constructor(folder: string, common: unknown) {
    this.#folder = folder;
    this.#common = common;
  }

  /** A run that is there; `null` if none is. */
  async get(run: unknown): Promise<RunResult | null> {
    const key = { common: this.#common, run };
    try {
      const stored: Stored = JSON.parse(await Deno.readTextFile(await this.#file(key)));
      return JSON.stringify(stored.key) === JSON.stringify(key) ? read(stored.result) : null;
    } catch (error) {
      // A file that was cut is a run that was not finished.
      if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return null;
      throw error;
    }
  }

  /** Keeps a run. */
  async put(run: unknown, result: RunResult): Promise<void> {
    const key = { common: this.#common, run };
    await Deno.mkdir(this.#folder, { recursive: true });
    await writeWhole(await this.#file(key), JSON.stringify({ key, result: written(result) }));
  }

  async #file(key: unknown): Promise<string> {
    const bytes = new TextEncoder().encode(JSON.stringify(key));
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return `${this.#folder}/${hash.slice(0, 10).toHex()}.json`;
  }
}

/** A run as JSON can carry it, masks and scores too. */
export function written({ steps, ...run }: RunResult) {
  return {
    ...run,
    steps: steps.map((step) => ({
      ...step,
      mask: [...step.mask].join(""),
      scores: step.scores === null ? null : [...step.scores].map((score) => Number(score.toPrecision(4))),
    })),
  };
}

function read(stored: unknown): RunResult {
  const { steps, ...run } = stored as ReturnType<typeof written>;
  return {
    ...run,
    steps: steps.map((step) => ({
      ...step,
      mask: Uint8Array.from(step.mask, Number),
      scores: step.scores === null ? null : Float32Array.from(step.scores),
    })),
  };
}
