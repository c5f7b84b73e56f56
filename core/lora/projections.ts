/**
 * Frozen projections, which an edge server holds for modes that have them: for each layer, head and target A [r, d]
 * before what a device trains, and B [D, r] behind it. After LoRA-XS, arXiv 2405.17604.
 *
 * d hidden size, D head size, r rank.
 *
 * @module
 */

import { headSizeOf, type ModelShape } from "../contracts/model_shape.ts";
import { type RandomStream, randomStream } from "../model/random.ts";
import { DEFAULT_PROJECTIONS, LORA_TARGETS, type LoraTarget, type ProjectionForm } from "./targets.ts";

/** A place that has projections of its own. */
export interface ProjectionPlace {
  /** Layer, from 0. */
  readonly layer: number;
  /** Head of the model. */
  readonly head: number;
  /** Target. */
  readonly target: LoraTarget;
}

/** A frozen pair. */
export interface ProjectionPair {
  /** [r, d], row-major. */
  readonly a: Float32Array;
  /** [D, r], row-major. */
  readonly b: Float32Array;
}

/** The frozen projections of a run. Where targets share A, all targets of a head have the same. */
export interface HeadProjections {
  /** Projections of a head and target. */
  at(place: ProjectionPlace): ProjectionPair;
}

/**
 * Checks that projections of a rank can be made.
 *
 * @throws {RangeError} If the rank is larger than the head size: B would have more columns than rows.
 */
export function requireProjectionRank(rank: number, model: ModelShape): void {
  const headSize = headSizeOf(model);
  if (rank <= headSize) return;
  throw new RangeError(
    `Cannot make projections as the rank must be at most the head size, ${headSize}: current value is ${rank}`,
  );
}

/** Streams of random numbers: A and B of each target, and an A that targets share. */
const STREAMS = 8;
const SHARED = 3;
const OF_B = 4;

/** A normal number from a stream (Box and Muller). */
function normal(random: RandomStream): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random.float()));
  return radius * Math.cos(2 * Math.PI * random.float());
}

/** A matrix [rows, columns] with random orthonormal columns: Gram-Schmidt over normal ones. */
function orthonormalColumns(random: RandomStream, rows: number, columns: number): Float32Array {
  const made: Float64Array[] = [];
  while (made.length < columns) {
    const column = Float64Array.from({ length: rows }, () => normal(random));
    const size = Math.hypot(...column);
    // Twice: what rounding leaves of the others is then as small as rounding.
    for (const other of [...made, ...made]) {
      const along = other.reduce((sum, v, i) => sum + v * column[i]!, 0);
      other.forEach((v, i) => column[i]! -= along * v);
    }
    const left = Math.hypot(...column);
    if (left < 1e-6 * size) continue;
    made.push(column.map((v) => v / left));
  }
  return Float32Array.from(
    { length: rows * columns },
    (_, i) => made[i % columns]![Math.floor(i / columns)]!,
  );
}

/**
 * Projections drawn from a seed. They depend on (seed, layer, head, target) alone, so whoever knows the settings can
 * make them.
 *
 * @throws {RangeError} If the rank is larger than the head size.
 */
export function seededProjections(
  { rank, projections: { seed, shared } = DEFAULT_PROJECTIONS }: ProjectionForm,
  model: ModelShape,
): HeadProjections {
  requireProjectionRank(rank, model);
  const { hidden } = model;
  const headSize = headSizeOf(model);
  return {
    at({ layer, head, target }) {
      const which = LORA_TARGETS.indexOf(target);
      const stream = (kind: number) => randomStream(seed >>> 0, (layer * 4096 + head) * STREAMS + kind);
      const ofA = stream(shared ? SHARED : which);
      const scale = 1 / Math.sqrt(hidden);
      return {
        a: Float32Array.from({ length: rank * hidden }, () => scale * normal(ofA)),
        b: orthonormalColumns(stream(OF_B + which), headSize, rank),
      };
    },
  };
}

/**
 * The projections that settings ask for: those that are given, or such from the seed.
 *
 * @throws {RangeError} If the rank is larger than the head size.
 * @throws {TypeError} If they are to be made from the base model, and are not given.
 */
export function projectionsFor(
  form: ProjectionForm,
  model: ModelShape,
  given?: HeadProjections,
): HeadProjections {
  requireProjectionRank(form.rank, model);
  if ((form.projections ?? DEFAULT_PROJECTIONS).from === "seed") return seededProjections(form, model);
  if (given !== undefined) return given;
  throw new TypeError(
    "Cannot use frozen projections from the base model as they must be given, see baseProjections: they are not",
  );
}
