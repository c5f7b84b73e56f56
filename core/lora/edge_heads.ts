/**
 * The edge server's part in the head modules of a layer, whatever the mode and wherever the modules are: what becomes
 * of X before it reaches them, and of what they answer.
 *
 * T tokens, d hidden size, D head size, n kept heads, c targets.
 *
 * @module
 */

import { type Engine, gatherHeadColumns, scatterAddHeadColumns, type Tensor } from "@edgetuner/kernels";
import { headSizeOf, type ModelShape } from "../contracts/model_shape.ts";
import type { HeadMode } from "../contracts/ports.ts";
import type { HeadProjections } from "./projections.ts";
import { targetColumns } from "./target_columns.ts";
import type { EdgeLora } from "./targets.ts";

/** What the edge server's part is made from. */
export interface EdgeHeadsOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** LoRA settings. */
  readonly lora: EdgeLora;
  /** Shape of the model. */
  readonly model: ModelShape;
  /** Seed of the run, for LoRA dropout. */
  readonly seed: number;
  /** Frozen projections, where they are made from the base model. @default {drawn as the settings say} */
  readonly projections?: HeadProjections | undefined;
}

/** Kept heads of a layer, and lists of heads on the GPU. */
export interface KeptHeads {
  /** The kept heads, ascending. */
  readonly list: readonly number[];
  /** [1, n]: a list of numbers on the GPU; not the caller's to dispose. */
  upload(list: readonly number[]): Tensor;
}

/** Where in a run something is computed. */
export interface EdgePlace {
  /** Layer, from 0. */
  readonly layer: number;
  /** Its kept heads. */
  readonly kept: KeptHeads;
  /** Step of the run. */
  readonly step: number;
  /** What the step is for. */
  readonly mode: HeadMode;
  /** Row of the whole batch that the rows begin at. */
  readonly firstRow: number;
}

/** X as it goes to head modules. */
export interface GatheredInput {
  /** Rows and columns as `InputMode.shape` says for all kept heads: all dimensions but the last one are rows. */
  readonly input: Tensor;
  /** False if it is X itself; if true the caller disposes it. */
  readonly owned: boolean;
}

/** The edge server's part. */
export interface EdgeHeads extends Disposable {
  /** X, [T, d], as the kept heads read it. */
  gather(x: Tensor, at: EdgePlace): GatheredInput;
  /**
   * Adds gradients of what `gather` gives to the gradient of X.
   *
   * @param dx Shape of what `gather` gives.
   * @param target Gradient of X, [T, d].
   * @param at The same place.
   */
  addGradient(dx: Tensor, target: Tensor, at: EdgePlace): void;
  /**
   * Adds what head modules answered for a target to Q, K and V.
   *
   * @param deltas Of all kept heads, [n * T, `deltaColumns`], head-major.
   * @param target Index of the target.
   * @param qkv Q, K and V, [T, (H + 2 G) * D].
   */
  addDeltas(deltas: Tensor, target: number, qkv: Tensor, at: EdgePlace): void;
  /**
   * The gradient of what head modules answered for a target.
   *
   * @param dqkv Gradient of Q, K and V.
   * @param target Index of the target.
   * @returns As `addDeltas` takes it; the caller's to dispose.
   */
  deltaGradients(dqkv: Tensor, target: number, at: EdgePlace): Tensor;
}

/** Moves heads' blocks of D columns to and from Q, K and V. */
export class TargetBlocks {
  readonly #options: EdgeHeadsOptions;
  readonly #headSize: number;

  /** See `EdgeHeadsOptions`. */
  constructor(options: EdgeHeadsOptions) {
    this.#options = options;
    this.#headSize = headSizeOf(options.model);
  }

  /** Adds blocks [n * T, D] of a target to Q, K and V. */
  add(blocks: Tensor, target: number, qkv: Tensor, { kept }: EdgePlace): void {
    const { first, passes } = this.#columns(target, qkv, kept);
    for (const pass of passes) {
      scatterAddHeadColumns(blocks, qkv, { first, headSize: this.#headSize, heads: kept.upload(pass) });
    }
  }

  /** Blocks [n * T, D] of a target from the gradient of Q, K and V. */
  gather(dqkv: Tensor, target: number, { kept }: EdgePlace): Tensor {
    const { first, heads } = this.#columns(target, dqkv, kept);
    return gatherHeadColumns(dqkv, { first, headSize: this.#headSize, heads: kept.upload(heads) });
  }

  #columns(target: number, { columns }: Tensor, { list }: KeptHeads) {
    const { lora, model: { heads } } = this.#options;
    return targetColumns(lora.targets[target]!, list, { heads, headSize: this.#headSize, columns });
  }
}

/** How X is divided in a mode whose devices answer with Deltas. */
export interface InputDivision {
  /** X as the kept heads read it. */
  gather(x: Tensor, columns: { readonly headSize: number; readonly heads: Tensor }): GatheredInput;
  /** Adds gradients of that to the gradient of X. */
  addGradient(
    dx: Tensor,
    target: Tensor,
    columns: { readonly headSize: number; readonly heads: Tensor },
  ): void;
}

/** The edge server's part where devices answer with Deltas: it computes nothing, and moves columns. */
export class DirectEdge implements EdgeHeads {
  readonly #blocks: TargetBlocks;
  readonly #division: InputDivision;
  readonly #headSize: number;

  /**
   * Prepares the moves.
   *
   * @param options The run.
   * @param division How X is divided; columns are d / H wide.
   */
  constructor(options: EdgeHeadsOptions, division: InputDivision) {
    this.#blocks = new TargetBlocks(options);
    this.#division = division;
    this.#headSize = options.model.hidden / options.model.heads;
  }

  /** X, or columns of it. */
  gather(x: Tensor, { kept }: EdgePlace): GatheredInput {
    return this.#division.gather(x, { headSize: this.#headSize, heads: kept.upload(kept.list) });
  }

  /** Adds gradients to where X came from. */
  addGradient(dx: Tensor, target: Tensor, { kept }: EdgePlace): void {
    this.#division.addGradient(dx, target, { headSize: this.#headSize, heads: kept.upload(kept.list) });
  }

  /** Adds Deltas. */
  addDeltas(deltas: Tensor, target: number, qkv: Tensor, at: EdgePlace): void {
    this.#blocks.add(deltas, target, qkv, at);
  }

  /** Gradients of Deltas. */
  deltaGradients(dqkv: Tensor, target: number, at: EdgePlace): Tensor {
    return this.#blocks.gather(dqkv, target, at);
  }

  /** Holds nothing. */
  [Symbol.dispose](): void {}
}
