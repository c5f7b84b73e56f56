/**
 * Rotary positions as configurations say them: the base of the angles, and how they are stretched.
 *
 * D head size.
 *
 * @module
 */

import { CheckpointError } from "../../contracts/errors.ts";
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
  };

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
 * @throws {CheckpointError} If they ask for what is not done here, or for two things.
 */
export function ropeOf(fields: ConfigFields, defaultTheta = 10_000): RopeConfig {
  const [newer, older] = [fields.get("rope_parameters"), fields.get("rope_scaling")];
  if (newer !== undefined && older !== undefined && JSON.stringify(newer) !== JSON.stringify(older)) {
    throw new CheckpointError(
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
 * @throws {CheckpointError} If they ask for what is not done here.
 */
export function ropeParameters(fields: ConfigFields, scaling: ConfigFields, theta: number): RopeConfig {
  const rope_theta = scaling.positive("rope_theta", theta);
  scaling.only("partial_rotary_factor", [1], "all columns of a head are turned");
  const type = scaling.get("rope_type") ?? scaling.get("type") ?? "default";
  if (type === "default") return { rope_theta, rope_scaling: { rope_type: type } };
  if (type !== "linear" && type !== "llama3") {
    throw new CheckpointError(
      `Cannot load the model as ${
        scaling.path("rope_type")
      } must be "default", "linear" or "llama3": current value is ${showValue(type)}`,
    );
  }
  const factor = scaling.positive("factor");
  if (type === "linear") return { rope_theta, rope_scaling: { rope_type: type, factor } };
  const low = scaling.positive("low_freq_factor");
  const high = scaling.positive("high_freq_factor");
  if (!(low < high)) {
    throw new CheckpointError(
      `Cannot load the model as ${
        scaling.path("low_freq_factor")
      } must be below high_freq_factor: they are ${low} and ${high}`,
    );
  }
  const original = scaling.integer("original_max_position_embeddings");
  fields.only("original_max_position_embeddings", [original], `as in ${scaling.path("")}`);
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

/**
 * Angle per position of each pair of columns, [D / 2]: theta^(-2 i / D), stretched as the scaling says.
 * `linear` divides all (Chen et al., 2023); `llama3` divides those of wavelengths above
 * original / low_freq_factor, keeps those below original / high_freq_factor, and goes smoothly between.
 *
 * @param rope Base and scaling.
 * @param headSize D.
 */
export function ropeFrequencies(
  { rope_theta: theta, rope_scaling: scaling }: RopeConfig,
  headSize: number,
): Float64Array {
  return Float64Array.from({ length: headSize / 2 }, (_, i) => {
    const frequency = theta ** (-2 * i / headSize);
    if (scaling.rope_type === "default") return frequency;
    if (scaling.rope_type === "linear") return frequency / scaling.factor;
    const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
    // Turns within the original length: few if the wavelength is long.
    const turns = scaling.original_max_position_embeddings * frequency / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return frequency * (kept + (1 - kept) / factor);
  });
}
