/**
 * What of LoRA settings does not depend on the list of modes: targets, and how frozen projections are made.
 *
 * @module
 */

/** A projection that LoRA adapts. */
export type LoraTarget = "q" | "k" | "v";

/** Targets in the order of the columns of a fused QKV product. */
export const LORA_TARGETS: readonly LoraTarget[] = ["q", "k", "v"];

/** What frozen projections are made from, see `ProjectionSettings`. */
export const PROJECTION_SOURCES = ["seed", "base"] as const;

/**
 * How the frozen projections are made that an edge server holds in modes that have them (`InputMode.projects`): A
 * before the trained matrix of a head and target, B behind it.
 *
 * @category Training
 */
export interface ProjectionSettings {
  /**
   * `seed`: A is drawn from a normal distribution of variance 1 / d, B has random orthonormal columns. `base`: A and B
   * are the first right and left singular vectors of the head's base weights, B times the singular values.
   */
  readonly from: typeof PROJECTION_SOURCES[number];
  /** Seed of what is drawn; of no effect with `base`. */
  readonly seed: number;
  /** True if the targets of a head share one A, so that the device reads one input for all of them. */
  readonly shared: boolean;
}

/** Projections of whoever gives none. */
export const DEFAULT_PROJECTIONS: ProjectionSettings = { from: "seed", seed: 1, shared: false };

/** What of LoRA settings the frozen projections depend on. */
export interface ProjectionForm {
  /** Adapted projections, in the order q, k, v. */
  readonly targets: readonly LoraTarget[];
  /** r, rank of each head module. */
  readonly rank: number;
  /** How they are made. @default {DEFAULT_PROJECTIONS} */
  readonly projections?: ProjectionSettings;
}

/** What of LoRA settings an edge server computes with. */
export interface EdgeLora extends ProjectionForm {
  /** Scale numerator: Deltas are multiplied by alpha / rank. */
  readonly alpha: number;
  /** Share of X's elements dropped in training, in [0, 1). */
  readonly dropout: number;
}
