/**
 * Models of any family: which one a `config.json` is of, and its layers and ends.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import { showValue } from "../contracts/plain_text.ts";
import { CheckpointError } from "../contracts/errors.ts";
import type { BaseLayers, BaseShape, ModelEnds } from "./base.ts";
import { type Gpt2Config, gpt2Config, Gpt2Ends, Gpt2Layers, gpt2Shape } from "./families/gpt2.ts";
import type { NamedArrays } from "../files/named_arrays.ts";
import { type LlamaConfig, llamaConfig, LlamaEnds, LlamaLayers, llamaShape } from "./families/llama.ts";
import { type OptConfig, optConfig, OptEnds, OptLayers, optShape } from "./families/opt.ts";
import type { BaseWeights } from "./weights.ts";

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
  readonly layers: Load<C, BaseLayers>;
  readonly ends: Load<C, ModelEnds>;
}

type Load<C, T> = (engine: Engine, config: C, weights: NamedArrays, baseWeights: BaseWeights) => T;

const GPT2: Family<Gpt2Config> = {
  config: gpt2Config,
  shape: gpt2Shape,
  layers: (engine, config, weights, format) => new Gpt2Layers(engine, config, weights, false, format),
  ends: (engine, config, weights, format) => new Gpt2Ends(engine, config, weights, false, format),
};
const LLAMA: Family<LlamaConfig> = {
  config: llamaConfig,
  shape: llamaShape,
  layers: (...args) => new LlamaLayers(...args),
  ends: (...args) => new LlamaEnds(...args),
};
const OPT: Family<OptConfig> = {
  config: optConfig,
  shape: optShape,
  layers: (...args) => new OptLayers(...args),
  ends: (...args) => new OptEnds(...args),
};

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
        showValue(name)
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

/** How a frozen base is loaded. */
export interface LoadOptions {
  /**
   * How its matrices are held. Packed ones are made from the file's weights while these are read, one tensor at
   * a time. The file, its fingerprint and what is exported or merged from it stay as they are.
   *
   * @default {"f32"}
   */
  readonly baseWeights?: BaseWeights;
}

/**
 * Puts a model's layers on the GPU, frozen.
 *
 * @param engine Where.
 * @param model The checkpoint.
 * @param options How matrices are held.
 * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format, or if the
 * layers hold a weight that the family and configuration have no use for.
 * @throws {RangeError} If there is no such format.
 */
export function loadLayers(
  engine: Engine,
  { config, weights }: Checkpoint,
  { baseWeights = "f32" }: LoadOptions = {},
): BaseLayers {
  return familyOf(config).layers(engine, config, weights, baseWeights);
}

/**
 * Puts a model's embedding, final norm and LM head on the GPU, frozen.
 *
 * @param engine Where.
 * @param model The checkpoint.
 * @param options How token embedding and LM head are held.
 * @throws {CheckpointError} If a weight is missing, has another shape or does not fit the format.
 * @throws {RangeError} If there is no such format.
 */
export function loadEnds(
  engine: Engine,
  { config, weights }: Checkpoint,
  { baseWeights = "f32" }: LoadOptions = {},
): ModelEnds {
  return familyOf(config).ends(engine, config, weights, baseWeights);
}
