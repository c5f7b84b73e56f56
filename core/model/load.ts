/**
 * Models of any family: which one a `config.json` is of, and its layers and ends.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { CheckpointError } from "../errors.ts";
import type { BaseLayers, BaseShape, ModelEnds } from "./base.ts";
import { type Gpt2Config, gpt2Config, Gpt2Ends, Gpt2Layers, gpt2Shape, type NamedArrays } from "./gpt2.ts";
import { type LlamaConfig, llamaConfig, LlamaEnds, LlamaLayers, llamaShape } from "./llama.ts";
import { type OptConfig, optConfig, OptEnds, OptLayers, optShape } from "./opt.ts";

/** Shape of a model of any family. */
export type ModelConfig = Gpt2Config | LlamaConfig | OptConfig;

/** A checkpoint: what a model is made from. */
export interface Checkpoint<C extends ModelConfig = ModelConfig> {
  /** Shape of the model. */
  readonly config: C;
  /** Weights by name. */
  readonly weights: NamedArrays;
}

/** What is done with a family. */
interface Family<C extends ModelConfig> {
  readonly config: (json: unknown) => C;
  readonly shape: (config: C) => BaseShape;
  readonly layers: new (engine: Engine, config: C, weights: NamedArrays) => BaseLayers;
  readonly ends: new (engine: Engine, config: C, weights: NamedArrays) => ModelEnds;
}

const GPT2: Family<Gpt2Config> = { config: gpt2Config, shape: gpt2Shape, layers: Gpt2Layers, ends: Gpt2Ends };
const LLAMA: Family<LlamaConfig> = {
  config: llamaConfig,
  shape: llamaShape,
  layers: LlamaLayers,
  ends: LlamaEnds,
};
const OPT: Family<OptConfig> = { config: optConfig, shape: optShape, layers: OptLayers, ends: OptEnds };

/** By `model_type`, or by the first of `architectures` where that is missing. */
const FAMILIES: Readonly<Record<string, Family<Gpt2Config> | Family<LlamaConfig> | Family<OptConfig>>> = {
  gpt2: GPT2,
  llama: LLAMA,
  opt: OPT,
  GPT2LMHeadModel: GPT2,
  LlamaForCausalLM: LLAMA,
  OPTForCausalLM: OPT,
};

/**
 * Checks a `config.json` and takes what its family needs.
 *
 * @throws {CheckpointError} If the family is not known, a field is missing or out of range, or asks for
 * what is not done here.
 */
export function modelConfig(json: unknown): ModelConfig {
  const { model_type: type, architectures } = (json ?? {}) as Record<string, unknown>;
  const name = type ?? (Array.isArray(architectures) ? architectures[0] : undefined) ?? "gpt2";
  const family = typeof name === "string" && Object.hasOwn(FAMILIES, name) ? FAMILIES[name] : undefined;
  if (family === undefined) {
    throw new CheckpointError(
      `Cannot load the model as model_type must be "gpt2", "llama" or "opt": current value is ${
        JSON.stringify(name)
      }`,
    );
  }
  return family.config(json);
}

function familyOf(config: ModelConfig): Family<ModelConfig> {
  return FAMILIES["model_type" in config ? config.model_type : "gpt2"] as Family<ModelConfig>;
}

/** Shape of a model's layers. */
export function modelShape(config: ModelConfig): BaseShape {
  return familyOf(config).shape(config);
}

/**
 * Puts a model's layers on the GPU, frozen.
 *
 * @throws {CheckpointError} If a weight is missing or has another shape, or, beside GPT-2, if the layers hold a
 * weight that the family and configuration have no use for.
 */
export function loadLayers(engine: Engine, { config, weights }: Checkpoint): BaseLayers {
  return new (familyOf(config).layers)(engine, config, weights);
}

/**
 * Puts a model's embedding, final norm and LM head on the GPU, frozen.
 *
 * @throws {CheckpointError} If a weight is missing or has another shape.
 */
export function loadEnds(engine: Engine, { config, weights }: Checkpoint): ModelEnds {
  return new (familyOf(config).ends)(engine, config, weights);
}
