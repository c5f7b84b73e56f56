/**
 * The edge server's part where it holds frozen projections.
 *
 * T tokens, d hidden size, D head size, H heads, n of them kept, r rank (r4: a multiple of four), p parts of the input.
 *
 * @module
 */

import {
  addScaled,
  type ArenaMatrix,
  dropout,
  gatherHeadColumns,
  headProduct,
  matmul,
  roundUp4,
  scatterAddHeadColumns,
  type Tensor,
} from "@edgetuner/kernels";
import { headSizeOf } from "../../contracts/model_shape.ts";
import {
  type EdgeHeads,
  type EdgeHeadsOptions,
  type EdgePlace,
  type GatheredInput,
  TargetBlocks,
} from "../edge_heads.ts";
import { type HeadProjections, projectionsFor } from "../projections.ts";
import { DEFAULT_PROJECTIONS } from "../targets.ts";

/** The frozen matrices of a layer. */
interface LayerProjections {
  /** A of all heads one below the other, [H * p * r4, d]; rows beyond r are zero. */
  readonly a: Tensor;
  /** B of all heads, [H, c * D * r4]. */
  readonly b: Tensor;
}

/**
 * X goes through A before it is sent, and what devices answer through B: one product of X with the A of all heads, and
 * one back. LoRA dropout acts on X before A, with the mask of mode `full`.
 */
export class ProjectingEdge implements EdgeHeads {
  readonly #options: EdgeHeadsOptions;
  readonly #projections: HeadProjections;
  readonly #blocks: TargetBlocks;
  readonly #layers = new Map<number, LayerProjections>();
  readonly #parts: number;
  readonly #rank4: number;

  /**
   * Prepares the projections; each layer's are made when it first runs.
   *
   * @throws {RangeError} If the rank is larger than the head size.
   * @throws {TypeError} If projections from the base model are missing.
   */
  constructor(options: EdgeHeadsOptions) {
    const { lora, model, projections } = options;
    this.#options = options;
    this.#projections = projectionsFor(lora, model, projections);
    this.#blocks = new TargetBlocks(options);
    this.#parts = (lora.projections ?? DEFAULT_PROJECTIONS).shared ? 1 : lora.targets.length;
    this.#rank4 = roundUp4(lora.rank);
  }

  /** u = A x of the kept heads, [p * n * T, r]. */
  gather(x: Tensor, at: EdgePlace): GatheredInput {
    const { a } = this.#layer(at.layer);
    using masked = this.#drops(at) ? this.#dropout(x, at) : null;
    using wide = matmul(masked ?? x, a, { transposeB: true });
    const input = gatherHeadColumns(wide, { ...this.#columns(at), columns: this.#options.lora.rank });
    return { input, owned: true };
  }

  /** Adds A^T du. */
  addGradient(dx: Tensor, target: Tensor, at: EdgePlace): void {
    const { a } = this.#layer(at.layer);
    using wide = target.engine.zeros(target.rows, a.rows, "gradients of projected inputs");
    scatterAddHeadColumns(dx, wide, this.#columns(at));
    if (!this.#drops(at)) return void matmul(wide, a, { out: target, accumulate: true });
    using unmasked = matmul(wide, a);
    using masked = this.#dropout(unmasked, at);
    addScaled(masked, target);
  }

  /** Adds (alpha / r) B v. */
  addDeltas(deltas: Tensor, target: number, qkv: Tensor, at: EdgePlace): void {
    const heads = at.kept.upload(at.kept.list);
    using blocks = headProduct({ x: deltas, ...this.#ofB(at.layer, target), heads, transpose: true });
    this.#blocks.add(blocks, target, qkv, at);
  }

  /** dv = (alpha / r) B^T dDelta, [n * T, r]. */
  deltaGradients(dqkv: Tensor, target: number, at: EdgePlace): Tensor {
    const heads = at.kept.upload(at.kept.list);
    using blocks = this.#blocks.gather(dqkv, target, at);
    return headProduct({ x: blocks, ...this.#ofB(at.layer, target), heads });
  }

  /** Frees the projections. */
  [Symbol.dispose](): void {
    for (const { a, b } of this.#layers.values()) for (const tensor of [a, b]) tensor.dispose();
    this.#layers.clear();
  }

  #drops({ mode }: EdgePlace): boolean {
    return mode !== "evaluate" && this.#options.lora.dropout > 0;
  }

  #dropout(x: Tensor, { kept, step, layer, firstRow }: EdgePlace): Tensor {
    const { lora: { dropout: rate }, seed } = this.#options;
    return dropout(x, kept.upload([0]), { rate, seed, step, layer, firstRow });
  }

  /** Where the numbers of the kept heads lie among those of all heads: part after part. */
  #columns({ kept }: EdgePlace) {
    const parts = this.#parts;
    const list = Array.from({ length: parts }, (_, part) => kept.list.map((head) => head * parts + part));
    return { first: 0, headSize: this.#rank4, heads: kept.upload(list.flat()) };
  }

  #ofB(layer: number, target: number) {
    const { lora, model } = this.#options;
    const rows = headSizeOf(model);
    const size = rows * this.#rank4;
    const segment = lora.targets.length * size;
    const matrix: ArenaMatrix = { rows, columns: lora.rank, first: target * size, segment };
    return { arena: this.#layer(layer).b, matrix, alpha: lora.alpha / lora.rank };
  }

  #layer(layer: number): LayerProjections {
    const known = this.#layers.get(layer);
    if (known !== undefined) return known;
    const { engine, lora: { rank, targets }, model: { heads, hidden }, model } = this.#options;
    const [parts, rank4, rowsOfB] = [this.#parts, this.#rank4, headSizeOf(model)];
    const a = new Float32Array(heads * parts * rank4 * hidden);
    const b = new Float32Array(heads * targets.length * rowsOfB * rank4);
    for (let head = 0; head < heads; head++) {
      for (const [k, target] of targets.entries()) {
        const pair = this.#projections.at({ layer, head, target });
        if (k < parts) a.set(pair.a, (head * parts + k) * rank4 * hidden);
        const first = (head * targets.length + k) * rowsOfB * rank4;
        for (let row = 0; row < rowsOfB; row++) {
          b.set(pair.b.subarray(row * rank, (row + 1) * rank), first + row * rank4);
        }
      }
    }
    const made = {
      a: engine.upload(a, heads * parts * rank4, hidden, `projections of layer ${layer}`),
      b: engine.upload(b, heads, b.length / heads, `projections back of layer ${layer}`),
    };
    this.#layers.set(layer, made);
    return made;
  }
}
