/**
 * The pruner interface: a strategy that says, once per step, which head modules are skipped.
 *
 * L = layers, H = heads per layer, M = user devices. Maps over head modules are row-major
 * `Float32Array`s or `Uint8Array`s of length L * H: entry `l * H + h` is head `h` of layer `l`.
 *
 * @module
 */

import { PluginError } from "./errors.ts";
import type { LinkStatistics } from "./links.ts";

/** Statistics that user devices compute and send after each training step. */
export const DEVICE_STATISTICS = ["gradientNorm", "loraNorm", "weightChange"] as const;

/** See `DEVICE_STATISTICS`. */
export type DeviceStatistic = typeof DEVICE_STATISTICS[number];

/** A statistic that the engine computes only if a pruner asks for it. */
export type StatisticName = DeviceStatistic | "baseNorm" | "embeddingMean" | "trueGradientNorm" | "links";

/** Every statistic by name: what a pruner may need. */
export const STATISTICS = [
  ...DEVICE_STATISTICS,
  "baseNorm",
  "embeddingMean",
  "trueGradientNorm",
  "links",
] as const satisfies readonly StatisticName[];

/** What a pruner is told once, before the first step. */
export interface PrunerContext {
  /** L, number of layers. */
  readonly layers: number;
  /** H, number of attention heads per layer. */
  readonly heads: number;
  /** Heads owned by each user device, H_m; device m owns a contiguous range of every layer. Sums to H. */
  readonly headsPerDevice: readonly number[];
  /** Compute capacity of each user device, gamma_m; any positive unit. */
  readonly capacities: readonly number[];
  /** Seed of the run; a pruner that draws at random draws from it. */
  readonly seed: number;
  /**
   * What else decides what the statistics show, as `sampleSettings` gives it: plain data that JSON can carry.
   * For files of samples; no pruner needs it. Left out where whoever asks the pruner does not say.
   */
  readonly settings?: Readonly<Record<string, unknown>>;
}

/** What a pruner is told before each step. Statistics are those of the steps before. */
export interface PrunerInput {
  /** Step number, counted from 0. */
  readonly step: number;
  /** Head mask of the last step, [L * H], 1 = pruned; `null` before the first step. */
  readonly lastMask: Uint8Array | null;
  /**
   * Gradient importance G of the last step, raw (not normalised), [L * H]:
   * sqrt(sum over the head's A and B of all targets of ||grad||_F^2) / 3. Entries of heads that
   * were pruned are 0 and carry no information. `null` before the first step.
   */
  readonly gradientNorm: Float32Array | null;
  /** ||Delta W||_F of each head module, [L * H]; `null` if not asked for or not yet known. */
  readonly loraNorm: Float32Array | null;
  /**
   * ||theta_t - theta_(t-1)||_F / ||theta_t||_F of each head module's weights over the last step,
   * [L * H]. Entries of heads that were pruned are 0 and carry no information. `null` or left out if
   * not asked for or not yet known.
   */
  readonly weightChange?: Float32Array | null;
  /**
   * G of **this** step as it will be with no head pruned, raw, [L * H]; `null` or left out if not
   * asked for. It costs a whole forward and backward pass more, with all its traffic.
   */
  readonly trueGradientNorm?: Float32Array | null;
  /** ||W||_F of the base model's weights of each head, [L * H]; `null` if not asked for. */
  readonly baseNorm: Float32Array | null;
  /**
   * Mean over tokens of this step's embeddings E, [d], or of the first part's where a step is computed in
   * parts; `null` if not asked for.
   */
  readonly embeddingMean: Float32Array | null;
  /**
   * What the edge server has measured of the devices' links; nothing travels for it. `null` or left out if not asked for,
   * before the first training step is over, and in runs without devices.
   */
  readonly links?: LinkStatistics | null;
}

/** What a pruner decides. */
export interface PrunerDecision {
  /** Head mask z, [L * H]: 1 = pruned in this step, 0 = kept. */
  readonly mask: Uint8Array;
  /** Importance per head for display, [L * H], finite; leave out if there is none. */
  readonly scores?: Float32Array;
  /** Finite numbers by name, for records: such as what the decision gives up. */
  readonly figures?: Readonly<Record<string, number>>;
}

/** State of a pruner between steps: plain data that `structuredClone` and CBOR can carry. */
export type PrunerState = unknown;

/**
 * A pruning strategy. A factory `(options) => Pruner` returns a plain object; the state is kept
 * outside, so that it can be saved with a state and moved to another machine.
 *
 * @category Pruners
 */
export interface Pruner<State = PrunerState> {
  /** Short name for reports, such as `"greedy"`. */
  readonly name: string;
  /** Statistics this pruner reads; no others are computed or sent. */
  readonly needs: readonly StatisticName[];
  /**
   * False for a yardstick that no real run can afford, such as an oracle; reports say so.
   *
   * @default {true}
   */
  readonly deployable?: boolean;
  /**
   * Factor a step of what a pruned head has learnt, where the run settings name none: 0.9 suits pruners that choose by
   * importance, as the heads that still learn then fit each other; at random each head is needed again soon.
   *
   * @default {1}
   */
  readonly prunedFade?: number;
  /** Returns the state before the first step. */
  init(context: PrunerContext): State;
  /**
   * Decides which heads are pruned in this step. Pure: the same arguments give the same result,
   * and `state` is not changed in place.
   *
   * @returns The decision and the state to pass in the next step.
   */
  decide(
    input: PrunerInput,
    state: State,
    context: PrunerContext,
  ): [PrunerDecision, State] | Promise<[PrunerDecision, State]>;
}

/**
 * Checks that something is a pruner. A statistic that is misspelt would never come, and the pruner never prune.
 *
 * @param value Such as what a module of a user's own makes.
 * @throws {PluginError} If `name` is not a text, `needs` not a list of {@linkcode STATISTICS}, `prunedFade` not from 0 to 1, or
 * `init` or `decide` not a function.
 *
 * @example
 * ```ts
 * import { checkPruner } from "@edgetuner/core";
 * import { assertThrows } from "@std/assert";
 *
 * const pruner = { name: "mine", needs: ["gradNorm"], init: () => null, decide: () => [{ mask: new Uint8Array(0) }, null] };
 * assertThrows(() => checkPruner(pruner), Error, "gradientNorm");
 * ```
 */
export function checkPruner(value: unknown): asserts value is Pruner {
  if (typeof value !== "object" || value === null) {
    throw new PluginError(
      `Cannot use the pruner as it must be an object: it is ${value === null ? "null" : typeof value}`,
    );
  }
  const { name, needs, deployable, prunedFade, init, decide } = value as Partial<
    Record<keyof Pruner, unknown>
  >;
  if (typeof name !== "string" || name === "") {
    throw new PluginError(
      `Cannot use the pruner as its name must be a text that is not empty: it is ${
        typeof name === "string" ? '""' : typeof name
      }`,
    );
  }
  const refuse = (rule: string): never => {
    throw new PluginError(`Cannot use pruner "${name}" as ${rule}`);
  };
  if (!Array.isArray(needs)) {
    return refuse(`needs must be a list of ${STATISTICS.join(", ")}: it is ${typeof needs}`);
  }
  const unknown = needs.findIndex((need) => !(STATISTICS as readonly unknown[]).includes(need));
  if (unknown >= 0) {
    const stranger = JSON.stringify(needs[unknown])?.slice(0, 80) ?? typeof needs[unknown];
    refuse(`needs must be some of ${STATISTICS.join(", ")}: entry ${unknown} is ${stranger}`);
  }
  if (deployable !== undefined && typeof deployable !== "boolean") {
    refuse(`deployable must be true or false: it is ${typeof deployable}`);
  }
  const fades = prunedFade === undefined ||
    (typeof prunedFade === "number" && prunedFade >= 0 && prunedFade <= 1);
  if (!fades) refuse(`prunedFade must be from 0 to 1: it is ${String(prunedFade)}`);
  for (const [method, f] of [["init", init], ["decide", decide]] as const) {
    if (typeof f !== "function") refuse(`${method} must be a function: it is ${typeof f}`);
  }
}

/**
 * Checks what a pruner returned.
 *
 * @throws {PluginError} If the mask has the wrong length or an entry other than 0 and 1, or a score is not finite.
 */
export function validateDecision(
  pruner: Pick<Pruner, "name">,
  decision: PrunerDecision,
  context: PrunerContext,
): PrunerDecision {
  const size = context.layers * context.heads;
  const { mask, scores } = (decision ?? {}) as Partial<PrunerDecision>;
  if (!(mask instanceof Uint8Array) || mask.length !== size) {
    const what = mask instanceof Uint8Array ? `length ${mask.length}` : typeof mask;
    throw new PluginError(
      `Cannot apply the decision of pruner "${pruner.name}" as "mask" must be a Uint8Array of ${size} entries (layers * heads): current value is ${what}`,
    );
  }
  const bad = mask.findIndex((z) => z !== 0 && z !== 1);
  if (bad >= 0) {
    throw new PluginError(
      `Cannot apply the decision of pruner "${pruner.name}" as every mask entry must be 0 or 1: entry ${bad} is ${
        mask[bad]
      }`,
    );
  }
  if (scores !== undefined) {
    if (!(scores instanceof Float32Array) || scores.length !== size) {
      throw new PluginError(
        `Cannot apply the decision of pruner "${pruner.name}" as "scores" must be a Float32Array of ${size} entries (layers * heads): current length is ${
          (scores as { length?: number } | null)?.length
        }`,
      );
    }
    const nan = scores.findIndex((s) => !Number.isFinite(s));
    if (nan >= 0) {
      throw new PluginError(
        `Cannot apply the decision of pruner "${pruner.name}" as every score must be finite: entry ${nan} is ${
          scores[nan]
        }`,
      );
    }
  }
  for (const [name, value] of Object.entries((decision as Partial<PrunerDecision>).figures ?? {})) {
    if (Number.isFinite(value)) continue;
    throw new PluginError(
      `Cannot apply the decision of pruner "${pruner.name}" as every figure must be a finite number: "${name}" is ${value}`,
    );
  }
  return decision;
}
