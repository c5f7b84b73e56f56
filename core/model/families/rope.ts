/**
 * Rotary positions as configurations say them: the base of the angles, and how they are stretched.
 *
 * D head size.
 *
 * @module
 */

import { ModelFileError } from "../../contracts/errors.ts";
import { showValue } from "../../contracts/plain_text.ts";
import type { ConfigFields } from "../weights.ts";

/** How the angles of rotary positions were stretched for longer sequences. */
export type RopeScaling =
  | { readonly rope_type: "default" }
  | { readonly rope_type: "linear"; readonly factor: number }
  | {
    readonly rope_type: "llama3";
    readonly factor: number;
    readonly low_freq_factor: number;
    readonly high_freq_factor: number;
    readonly original_max_position_embeddings: number;
  }
  | {
    readonly rope_type: "yarn";
    readonly factor: number;
    readonly original_max_position_embeddings: number;
    readonly attention_factor: number;
    readonly beta_fast: number;
    readonly beta_slow: number;
  }
  /** GGUF files alone: what the angle of each pair of columns is divided by, [D / 2]. */
  | { readonly rope_type: "factors"; readonly factors: readonly number[] };

/** Rotary positions of a model, named as in its `config.json`. */
export interface RopeConfig {
  /** Base of the angles. */
  readonly rope_theta: number;
  /** How they are stretched. */
  readonly rope_scaling: RopeScaling;
}

/** Kinds of layers that may turn by angles of their own. */
export const ROPE_KINDS: readonly string[] = ["full_attention", "sliding_attention"];

/**
 * Reads `rope_theta` and `rope_scaling`, where older and newer files have them.
 *
 * @param fields The whole configuration.
 * @param defaultTheta Base of the angles where none is given.
 * @throws {ModelFileError} If they ask for what is not done here, or for two things.
 */
export function ropeOf(fields: ConfigFields, defaultTheta = 10_000): RopeConfig {
  const [newer, older] = [fields.get("rope_parameters"), fields.get("rope_scaling")];
  if (newer !== undefined && older !== undefined && JSON.stringify(newer) !== JSON.stringify(older)) {
    throw new ModelFileError(
      `Cannot load the model as it must have one of rope_parameters and rope_scaling: they are ${
        showValue(newer)
      } and ${showValue(older)}`,
    );
  }
  const scaling = fields.object(newer !== undefined ? "rope_parameters" : "rope_scaling");
  // Else the defaults would be taken, as all else is one level down.
  for (const kind of ROPE_KINDS) scaling.only(kind, [], "all layers turn by the same angles");
  return ropeParameters(fields, scaling, fields.positive("rope_theta", defaultTheta));
}

/**
 * Reads the parameters of one kind of angles.
 *
 * @param fields The whole configuration.
 * @param scaling The object that has them.
 * @param theta Base of the angles, if the object does not say it.
 * @throws {ModelFileError} If they ask for what is not done here.
 */
export function ropeParameters(fields: ConfigFields, scaling: ConfigFields, theta: number): RopeConfig {
  const rope_theta = scaling.positive("rope_theta", theta);
  scaling.only("partial_rotary_factor", [1], "all columns of a head are turned");
  const type = scaling.get("rope_type") ?? scaling.get("type") ?? "default";
  if (type === "default") return { rope_theta, rope_scaling: { rope_type: type } };
  if (type !== "linear" && type !== "llama3" && type !== "yarn" && type !== "dynamic") {
    throw new ModelFileError(
      `Cannot load the model as ${
        scaling.path("rope_type")
      } must be "default", "linear", "dynamic", "yarn" or "llama3": current value is ${showValue(type)}`,
    );
  }
  const factor = scaling.positive("factor");
  if (type === "linear") return { rope_theta, rope_scaling: { rope_type: type, factor } };
  // It stretches beyond the longest sequence alone, and there is none here.
  if (type === "dynamic") return { rope_theta, rope_scaling: { rope_type: "default" } };
  if (type === "yarn") return { rope_theta, rope_scaling: yarnOf(fields, scaling, factor) };
  const low = scaling.positive("low_freq_factor");
  const high = scaling.positive("high_freq_factor");
  if (!(low < high)) {
    throw new ModelFileError(
      `Cannot load the model as ${
        scaling.path("low_freq_factor")
      } must be below high_freq_factor: they are ${low} and ${high}`,
    );
  }
  const original = originalOf(fields, scaling);
  return {
    rope_theta,
    rope_scaling: {
      rope_type: type,
      factor,
      low_freq_factor: low,
      high_freq_factor: high,
      original_max_position_embeddings: original,
    },
  };
}

/** The longest sequence before the stretching, which must be said once, or twice alike. */
function originalOf(fields: ConfigFields, scaling: ConfigFields): number {
  const original = scaling.integer("original_max_position_embeddings");
  fields.only("original_max_position_embeddings", [original], `as in ${scaling.path("")}`);
  return original;
}

/** `yarn` (Peng et al., 2023), with the numbers that follow from others worked out. */
function yarnOf(fields: ConfigFields, scaling: ConfigFields, factor: number): RopeScaling {
  scaling.only("truncate", [true], "the range of columns is rounded");
  const original = originalOf(fields, scaling);
  // A zero counts as missing, as in transformers.
  const or = (name: string, otherwise: number) =>
    scaling.get(name) === 0 ? otherwise : scaling.positive(name, otherwise);
  const [fast, slow] = [or("beta_fast", 32), or("beta_slow", 1)];
  const longer = (scale: number) => factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
  // Both must be there to count.
  const scales = ["mscale", "mscale_all_dim"].map((name) =>
    scaling.get(name) === undefined ? 0 : or(name, 0)
  );
  const [one, all] = scales as [number, number];
  return {
    rope_type: "yarn",
    factor,
    original_max_position_embeddings: original,
    attention_factor: scaling.positive(
      "attention_factor",
      one > 0 && all > 0 ? longer(one) / longer(all) : longer(1),
    ),
    beta_fast: fast,
    beta_slow: slow,
  };
}

/** How much of each angle `yarn` stretches, from none of fast ones to all of slow ones, [D / 2]. */
function stretchedOf(
  scaling: Extract<RopeScaling, { readonly rope_type: "yarn" }>,
  theta: number,
  headSize: number,
): (i: number) => number {
  const { beta_fast, beta_slow, original_max_position_embeddings: original } = scaling;
  /** The column whose angle makes so many turns within the original length. */
  const column = (turns: number) =>
    headSize * Math.log(original / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(column(beta_fast)), 0);
  const high = Math.min(Math.ceil(column(beta_slow)), headSize - 1);
  const width = low === high ? 0.001 : high - low;
  return (i) => Math.min(1, Math.max(0, (i - low) / width));
}

/** What cosines and sines are multiplied by. */
export function ropeScale({ rope_scaling: scaling }: RopeConfig): number {
  return scaling.rope_type === "yarn" ? scaling.attention_factor : 1;
}

/** What `llama3` keeps of an angle: all of high frequencies, 1 / factor of low ones. */
function keptOf(scaling: Extract<RopeScaling, { readonly rope_type: "llama3" }>, frequency: number): number {
  const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
  // Turns within the original length: few if the wavelength is long.
  const turns = scaling.original_max_position_embeddings * frequency / (2 * Math.PI);
  const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
  return kept + (1 - kept) / factor;
}

/** The shortest and longest original lengths that factors are looked up by, as powers of two. */
const ORIGINAL_LENGTHS = [4, 20] as const;

/**
 * Says by `llama3` what a file says by a factor for each pair of columns, if it can be said so: then the model is
 * the same as that of a folder.
 *
 * @param factors What each angle is divided by, [D / 2].
 * @param theta Base of the angles.
 */
export function scalingByFactors(factors: readonly number[], theta: number): RopeScaling {
  const frequencies = factors.map((_, i) => theta ** (-i / factors.length));
  const [least, most] = ORIGINAL_LENGTHS;
  const lengths = Array.from({ length: most - least + 1 }, (_, i) => 2 ** (least + i));
  for (const original of [8192, ...lengths]) {
    const scaling = {
      rope_type: "llama3",
      factor: Math.max(...factors),
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: original,
    } as const;
    const fits = (factor: number, i: number) =>
      Math.abs(factor * keptOf(scaling, frequencies[i]!) - 1) < 1e-5;
    if (factors.every(fits)) return scaling;
  }
  return { rope_type: "factors", factors };
}

/**
 * Angle per position of each pair of columns, [D / 2]: theta^(-2 i / D), stretched as the scaling says.
 * `linear` divides all (Chen et al., 2023); `llama3` divides those of wavelengths above
 * original / low_freq_factor, keeps those below original / high_freq_factor, and goes smoothly between; `yarn` does so
 * with a straight line over the columns between two numbers of turns.
 *
 * @param rope Base and scaling.
 * @param headSize D.
 */
export function ropeFrequencies(
  { rope_theta: theta, rope_scaling: scaling }: RopeConfig,
  headSize: number,
): Float64Array {
  const stretched = scaling.rope_type === "yarn" ? stretchedOf(scaling, theta, headSize) : () => 0;
  return Float64Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = theta ** (-2 * i / headSize);
    if (scaling.rope_type === "default") return frequency;
    if (scaling.rope_type === "linear") return frequency / scaling.factor;
    if (scaling.rope_type === "factors") return frequency / scaling.factors[i]!;
    if (scaling.rope_type === "llama3") return frequency * keptOf(scaling, frequency);
    return frequency * (1 - stretched(i) + stretched(i) / scaling.factor);
  });
}

/**
 * What the scaling divides the angle of each pair of columns by, [D / 2].
 *
 * @param rope Base and scaling.
 * @param headSize D.
 */
export function factorsOf(rope: RopeConfig, headSize: number): Float64Array {
  const plain = ropeFrequencies({ ...rope, rope_scaling: { rope_type: "default" } }, headSize);
  return ropeFrequencies(rope, headSize).map((frequency, i) => plain[i]! / frequency);
}
