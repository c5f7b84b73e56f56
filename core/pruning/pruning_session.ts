/**
 * A pruner in a run: what it is told, what it answers, and what it goes on from.
 *
 * @module
 */

import type { LinkStatistics } from "../contracts/links.ts";
import type { EmbeddedBatch, HeadStatistics } from "../contracts/ports.ts";
import {
  checkPruner,
  type Pruner,
  type PrunerContext,
  type PrunerDecision,
  type PrunerInput,
  type PrunerState,
} from "../contracts/pruner.ts";
import { embeddingMean } from "../train/embedding_mean.ts";
import type { PruningPort } from "../train/trainer.ts";
import { askPruner, initPruner } from "./ask_pruner.ts";

/** What pruning goes on from. */
export interface SavedPruning {
  /** Name of the pruner. */
  readonly pruner: string;
  /** State of the pruner after the last step. */
  readonly state: PrunerState;
  /** Head mask of the last step; `null` before the first. */
  readonly lastMask: Uint8Array | null;
  /** Statistics of the last step. */
  readonly statistics: HeadStatistics;
}

/** Options of a pruner in a run. */
export interface PruningSessionOptions {
  /** The pruner. */
  readonly pruner: Pruner;
  /** What it is told of the run. */
  readonly context: PrunerContext;
  /** ||W||_F of the base model's weights per head, [L * H], for pruners that need it. */
  readonly baseNorm?: Float32Array | undefined;
  /** G of a training step with no head pruned, before the step itself, see `probeStep`; for pruners that need it. */
  probe?: ((step: number, batch: EmbeddedBatch) => Promise<Float32Array>) | undefined;
  /** What is known of the devices' links, for pruners that need it. @default {nothing} */
  links?: (() => LinkStatistics | null) | undefined;
  /** What an earlier part of the run left. @default {null, the start} */
  readonly resumed?: SavedPruning | null | undefined;
  /** Longest time for a decision, in milliseconds. @default {120000} */
  readonly timeoutMs?: number | undefined;
  /** Ends the wait for a decision. */
  readonly signal?: AbortSignal | undefined;
}

/** Asks a pruner step after step, with the statistics that it needs of the step before. */
export class PruningSession implements PruningPort<EmbeddedBatch> {
  readonly #options: PruningSessionOptions;
  #state: PrunerState;
  #lastMask: Uint8Array | null;
  #statistics: HeadStatistics;

  /**
   * Starts a pruner, or goes on with it.
   *
   * @throws {PluginError} If it is no pruner, or throws.
   */
  constructor(options: PruningSessionOptions) {
    const { pruner, context, resumed = null } = options;
    checkPruner(pruner);
    this.#options = options;
    this.#state = resumed === null ? initPruner(pruner, context) : resumed.state;
    this.#lastMask = resumed?.lastMask ?? null;
    this.#statistics = resumed?.statistics ?? {};
  }

  /** What pruning goes on from, as it is now. */
  get saved(): SavedPruning {
    const { pruner } = this.#options;
    return {
      pruner: pruner.name,
      state: this.#state,
      lastMask: this.#lastMask,
      statistics: this.#statistics,
    };
  }

  /**
   * The decision for a training step.
   *
   * @param step Step number.
   * @param batch Its batch; disposed if this throws.
   * @throws {PluginError} If the pruner throws, is late, or decides what is not valid.
   */
  async decide(step: number, batch: EmbeddedBatch): Promise<PrunerDecision> {
    const { pruner, context, timeoutMs: ms = 120_000 } = this.#options;
    const { signal = new AbortController().signal } = this.#options;
    try {
      const input = await this.#input(step, batch);
      const [decision, state] = await askPruner(pruner, { input, state: this.#state, context }, {
        ms,
        signal,
      });
      this.#state = state;
      return decision;
    } catch (error) {
      batch.embedding.dispose();
      throw error;
    }
  }

  /** Takes in what came of the step. */
  learn({ mask }: PrunerDecision, statistics: HeadStatistics): void {
    this.#lastMask = mask;
    this.#statistics = statistics;
  }

  async #input(step: number, batch: EmbeddedBatch): Promise<PrunerInput> {
    const { pruner: { needs, name }, baseNorm, probe } = this.#options;
    const { gradientNorm, loraNorm, weightChange } = this.#statistics;
    let trueGradientNorm: Float32Array | null = null;
    if (needs.includes("trueGradientNorm")) {
      if (probe === undefined) {
        throw new TypeError(`Cannot ask pruner "${name}" as it needs probes of the step: this run has none`);
      }
      trueGradientNorm = await probe(step, batch);
    }
    const where = <T>(statistic: typeof needs[number], value: T | undefined) =>
      needs.includes(statistic) ? value ?? null : null;
    return {
      step,
      lastMask: this.#lastMask,
      gradientNorm: where("gradientNorm", gradientNorm),
      loraNorm: where("loraNorm", loraNorm),
      weightChange: where("weightChange", weightChange),
      trueGradientNorm,
      baseNorm: where("baseNorm", baseNorm),
      links: where("links", this.#options.links?.() ?? undefined),
      embeddingMean: needs.includes("embeddingMean") ? await embeddingMean(batch) : null,
    };
  }
}
