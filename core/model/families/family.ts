/**
 * What is known of a model family, in one record: how its files are read, what its weights are called, and how
 * its layers are made. `../families.ts` lists the families; nothing else asks which one a model is of.
 *
 * L layers, H heads, G heads of keys and values, D head size, d hidden size
 * (H * D in most models).
 *
 * @module
 */

import type { Engine } from "@edgetuner/kernels";
import type { NamedArrays } from "../../files/named_arrays.ts";
import type { BaseLayers, BaseShape, EmbeddingAndHead } from "../base.ts";
import type { BaseWeights } from "../weights.ts";
import type { GgufFamily } from "./gguf.ts";

/** A projection of the attention's input: queries, keys or values. */
export type ProjectionTarget = "q" | "k" | "v";

/** What the names and sizes of the attention's weights depend on. */
export interface ProjectionShape {
  /** H, heads of a layer. */
  readonly heads: number;
  /** G, heads of keys and values. */
  readonly kvHeads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. */
  readonly headSize: number;
}

/** A module that projects the attention's input: one of Q, K and V, or all of them side by side. */
export interface AttentionProjection {
  /** Its name, after one of the family's prefixes; in files `.weight` follows. */
  readonly name: string;
  /** Its outputs: columns of Q, K and V together, as far as it makes them. */
  readonly outputs: number;
  /** What it makes, in order, and the output at which each part begins. */
  readonly parts: readonly { readonly target: ProjectionTarget; readonly first: number }[];
}

/** Bytes of a base's weights on the GPU. */
export interface FamilyBytes {
  /** Those of all layers. */
  readonly layers: number;
  /** Embedding, final norm and LM head. */
  readonly ends: number;
}

/** What a model computes in its layers and ends, as far as the memory of a step depends on it. */
export interface FamilyActivations {
  /** F, feed-forward size. */
  readonly inner: number;
  /** V, vocabulary entries. */
  readonly vocabulary: number;
  /** Values [rows, F] that a feed-forward network keeps for the backward pass. */
  readonly keptInner: number;
  /** Gradients [rows, F] that it has at the same time on the way back. */
  readonly innerGradients: number;
  /** Numbers that a norm keeps of each row. */
  readonly normStatistics: number;
  /** Each head's queries and keys are normalised. @default {false} */
  readonly headNorms?: boolean;
  /** What attention and feed-forward network give is normalised before it is added. @default {false} */
  readonly outputNorms?: boolean;
}

/** Puts part of a model on the GPU, frozen. */
export type FamilyLoad<C, T> = (
  engine: Engine,
  config: C,
  weights: NamedArrays,
  baseWeights: BaseWeights,
) => T;

/** All that is known of a model family. */
export interface Family<C> {
  /** `model_type` of its `config.json`. */
  readonly name: string;
  /** Its name for people. */
  readonly title: string;
  /** Names in `architectures`, where `model_type` is missing. */
  readonly architectures: readonly string[];

  /**
   * Checks a `config.json` and takes what the family needs.
   *
   * @throws {ModelFileError} If a field is missing or out of range, or asks for what is not done here.
   */
  config(json: unknown): C;
  /** Shape of the layers. */
  shape(config: C): BaseShape;
  /** Makes the layers. */
  readonly layers: FamilyLoad<C, BaseLayers>;
  /** Makes embedding, final norm and LM head. */
  readonly ends: FamilyLoad<C, EmbeddingAndHead>;
  /** Bytes of its weights as they are loaded. */
  bytes(config: C, format: BaseWeights): FamilyBytes;
  /** What the memory of a step depends on beside the shape. */
  activations(config: C): FamilyActivations;

  /** What names of weights may begin with; first the one that names in PEFT adapters have. */
  readonly prefixes: readonly string[];
  /** True if matrices are stored [in, out], not [out, in]. */
  readonly storesInOut: boolean;
  /** The modules that project a layer's attention input. */
  projections(shape: ProjectionShape, layer: number): readonly AttentionProjection[];
  /** Name of the token embedding, after a prefix. */
  readonly tokenEmbedding: string;
  /** Name of the attention's output projection, after a prefix. */
  outputProjection(layer: number): string;
  /** Names of modules in PEFT's `target_modules`. */
  peftTargets(targets: readonly ProjectionTarget[]): readonly string[];

  /** How its GGUF files are read; `null` if there are none. */
  readonly gguf: GgufFamily<C> | null;
}

/** Q, K and V as modules of their own, `PREFIX.self_attn.q_proj` and so on. */
export function separateProjections(
  prefix: string,
  { heads, kvHeads, headSize }: ProjectionShape,
): readonly AttentionProjection[] {
  return (["q", "k", "v"] as const).map((target) => ({
    name: `${prefix}.self_attn.${target}_proj`,
    outputs: (target === "q" ? heads : kvHeads) * headSize,
    parts: [{ target, first: 0 }],
  }));
}
