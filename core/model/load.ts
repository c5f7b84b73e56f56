/**
 * Loading a model of any family: its layers and ends.
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { NamedArrays } from "../files/named_arrays.ts";
import type { BaseLayers, BaseShape, EmbeddingAndHead } from "./base.ts";
import { familyOf, type ModelConfig } from "./families.ts";
import type { BaseWeights } from "./weights.ts";

/** Files of a model, read: what a model is made from. */
export interface ModelFiles<C extends ModelConfig = ModelConfig> {
  /** Shape of the model. */
  readonly config: C;
  /** Weights by name. */
  readonly weights: NamedArrays;
}

/** Shape of a model's layers. */
export function modelShape(config: ModelConfig): BaseShape {
  return familyOf(config).shape(config);
}

/** Tokens that a model takes at most. */
export function contextLength(config: ModelConfig): number {
  return "n_positions" in config ? config.n_positions : config.max_position_embeddings;
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
 * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format, or if the
 * layers hold a weight that the family and configuration have no use for.
 * @throws {RangeError} If there is no such format.
 * @category Model and data
 */
export function loadLayers(
  engine: Engine,
  { config, weights }: ModelFiles,
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
 * @throws {ModelFileError} If a weight is missing, has another shape or does not fit the format.
 * @throws {RangeError} If there is no such format.
 * @category Model and data
 */
export function loadEmbeddingAndHead(
  engine: Engine,
  { config, weights }: ModelFiles,
  { baseWeights = "f32" }: LoadOptions = {},
): EmbeddingAndHead {
  return familyOf(config).ends(engine, config, weights, baseWeights);
}
