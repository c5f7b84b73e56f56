/**
 * Configurations as a `config.json` says them, for models whose files have none.
 *
 * @module
 */

import { ModelFileError } from "../contracts/errors.ts";
import { familyName, familyOf, type ModelConfig } from "./families.ts";
import type { Gemma3Config } from "./families/gemma3.ts";
import type { RopeConfig } from "./families/rope.ts";

type Fields = Readonly<Record<string, unknown>>;

/** How positions are stretched; nothing where they are not. */
function scalingOf({ rope_scaling: scaling }: RopeConfig): Fields {
  if (scaling.rope_type === "default") return {};
  if (scaling.rope_type !== "factors") return { rope_scaling: scaling };
  throw new ModelFileError(
    "Cannot write config.json as the angles must be stretched by one of its ways: the file divides each by a number of its own",
  );
}

/** Gemma 3's fields: angles of each kind of layers, in the older form, which readers of today know too. */
function gemmaJson({ rope_parameters, ...others }: Gemma3Config): Fields {
  const { full_attention: full, sliding_attention: local } = rope_parameters;
  const flat = (rope: RopeConfig) => ({
    rope_theta: rope.rope_theta,
    ...(scalingOf(rope).rope_scaling ?? { rope_type: "default" }) as Fields,
  });
  const isPlain = local.rope_scaling.rope_type === "default";
  return {
    ...others,
    hidden_activation: "gelu_pytorch_tanh",
    sliding_window: others.sliding_window ?? null,
    ...(isPlain
      ? { rope_theta: full.rope_theta, rope_local_base_freq: local.rope_theta, ...scalingOf(full) }
      : { rope_parameters: { full_attention: flat(full), sliding_attention: flat(local) } }),
  };
}

/**
 * The way back from `modelConfig`: fields of a `config.json`. What families have other defaults for is written out.
 *
 * @param config Shape of the model.
 * @throws {ModelFileError} If a `config.json` cannot say it.
 */
export function configJson(config: ModelConfig): Fields {
  const model_type = familyName(config);
  if (!("rms_norm_eps" in config)) return { model_type, ...config };
  const { headSize: head_dim } = familyOf(config).shape(config);
  if ("rope_parameters" in config) return { ...gemmaJson(config), head_dim };
  const { rope_scaling: _, ...others } = config;
  const plain = { ...others, head_dim, hidden_act: "silu", ...scalingOf(config) };
  const slides = "sliding_window" in config && config.sliding_window !== undefined;
  if (model_type === "mistral") {
    // All its layers slide, or none, and its own default is a window.
    const { layer_types: _kinds, ...alike } = plain as Fields;
    return { ...alike, sliding_window: slides ? config.sliding_window : null };
  }
  return { ...plain, ...(slides ? { use_sliding_window: true } : {}) };
}
