/**
 * What a LoRA head module reads of X, decided in one place.
 *
 * T tokens, d hidden size, H heads, n kept heads, r rank. X is [T, d].
 *
 * A mode is one object. It says which matrices are trained, what travels between edge server and devices,
 * how X is divided and how the gradient of X is put together, and which kernels compute with A.
 * `input_modes.ts` lists the modes: settings, checks, messages and help take their names from there.
 *
 * @module
 */

import type { ArenaMatrix, Tensor } from "@edgetuner/kernels";
import type { EdgeHeads, EdgeHeadsOptions } from "./edge_heads.ts";

/** The sizes that a mode depends on: of a model, and of LoRA settings. */
export interface InputModelSize {
  /** H, heads of a layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
  /** D, head size. @default {hidden / heads} */
  readonly headSize?: number | undefined;
  /** c, LoRA targets. @default {1} */
  readonly targets?: number | undefined;
  /** r, LoRA rank; needed by modes in which what travels depends on it. */
  readonly rank?: number | undefined;
  /** True if the targets of a head read the same input, in modes where that is a choice. @default {false} */
  readonly sharesInput?: boolean | undefined;
}

/** Where the parameters of a layer's kept heads lie. */
export interface HeadSlots {
  /** Parameters or gradients of all head modules of the layer. */
  readonly arena: Tensor;
  /** Where A lies in the arena: [r, columns]. */
  readonly matrix: ArenaMatrix;
  /** [1, n]: the kept heads. */
  readonly heads: Tensor;
  /** Which of the input's equal parts is read, see `InputMode.inputParts`. @default {0} */
  readonly part?: number;
  /** How many parts the input has. @default {1} */
  readonly parts?: number;
}

/** One part of the values that the edge server gives: that of a device. */
export interface InputShare {
  /** Kept heads of the device. */
  readonly heads: number;
  /** Kept heads of the devices before it. */
  readonly before: number;
  /** Kept heads of all devices. */
  readonly of: number;
  /** T. */
  readonly tokens: number;
}

/** Multiply-adds of an edge server for a layer, one way. */
export interface EdgeWork {
  /** Between X and what travels, or between their gradients. */
  readonly input: number;
  /** Between what the devices answer and Q, K and V, or between their gradients. */
  readonly delta: number;
}

/**
 * What a head module reads of X, and what of it is trained where.
 *
 * A head module has for each target a trained matrix A [r, `columns`] and, in most modes, a trained B [`outputs`, r]
 * behind it. In modes that project, the edge server has frozen matrices before and behind them.
 */
export interface InputMode {
  /** Its name in settings. */
  readonly name: string;
  /** What a head module reads, in a few words, for help. */
  readonly summary: string;
  /** True if the edge server makes a copy of what it sends. */
  readonly copies: boolean;
  /** True if the edge server holds frozen projections, see `ProjectionSettings`. */
  readonly projects: boolean;
  /** What the trained matrices are called in files; `b` is `null` in modes without B. */
  readonly matrixNames: { readonly a: string; readonly b: string | null };
  /** How A starts: drawn at random, or zero. B starts at zero. */
  readonly start: "random" | "zero";

  /** A peak learning rate that fits a model, as far as it was measured; see `fittingSettings`. */
  learningRate(model: InputModelSize): number;

  /** Columns of A: the numbers of a token that a head module reads for a target. */
  columns(model: InputModelSize): number;

  /** Rows of B; 0 in modes without B. */
  outputs(model: InputModelSize): number;

  /** The column of X that the first column of a head's A stands for: its place in a LoRA of the whole layer. */
  firstColumn(head: number, model: InputModelSize): number;

  /** Equal parts of the input's rows, of which each target reads its own: c, or 1 if all targets read all rows. */
  inputParts(model: InputModelSize): number;

  /**
   * Shape of what a device receives of X, and of its gradient, which it returns. The last two dimensions are tokens and
   * columns.
   *
   * @param heads n, kept heads of the device.
   * @param tokens T; `null` if any number may come.
   * @param model Sizes of model and LoRA.
   */
  shape<T extends number | null>(heads: number, tokens: T, model: InputModelSize): (number | T)[];

  /** Columns of what a device answers for a head and target: D, or what the edge server makes D numbers of. */
  deltaColumns(model: InputModelSize): number;

  /** The values of one device among all values that `EdgeHeads.gather` gives. */
  shareOf(values: Float32Array, share: InputShare, model: InputModelSize): Float32Array;

  /**
   * The gradients that devices return, as `EdgeHeads.addGradient` takes them one after the other. Each addition
   * keeps the order of the devices, whatever the order of arrival: the same bits every time.
   *
   * @param answers In order of the devices.
   * @param model Sizes of model and LoRA.
   */
  join(answers: readonly Float32Array[], model: InputModelSize): readonly Float32Array[];

  /**
   * Heads whose columns of the input the dropout mask is drawn for, where each head has `columns` of them; `null` if
   * the edge server has applied the mask before.
   *
   * @param heads The kept heads, as they are numbered in the model.
   */
  dropoutHeads(heads: readonly number[]): readonly number[] | null;

  /** x A^T of every kept head, [n * T, r]. */
  down(input: Tensor, slots: HeadSlots): Tensor;

  /**
   * Gradient of the input through A.
   *
   * @param dDown Gradient of `down`'s result, [n * T, r].
   * @param slots The kept heads.
   * @param sum Gradient of other targets: to add to, or to complete where each target has its part.
   * @returns Shape of the input; `sum` if there is one.
   */
  inputGradient(dDown: Tensor, slots: HeadSlots, sum?: Tensor | undefined): Tensor;

  /**
   * Gradient of every kept head's A.
   *
   * @param dDown Gradient of `down`'s result, [n * T, r].
   * @param input The input, after dropout.
   * @param slots The kept heads; the arena is that of the gradients.
   * @param options T, and whether to add to the gradients in the arena.
   */
  gradientOfA(
    dDown: Tensor,
    input: Tensor,
    slots: HeadSlots,
    options: { readonly length: number; readonly accumulate: boolean },
  ): void;

  /** The edge server's part of a run in this mode. */
  edge(options: EdgeHeadsOptions): EdgeHeads;

  /** What the edge server computes for n kept heads and T tokens, beside moving numbers. */
  edgeWork(heads: number, tokens: number, model: InputModelSize): EdgeWork;
}

/** Numbers of X, or of its gradient, that travel to a device with n kept heads for T tokens. */
export function inputNumbers(mode: InputMode, heads: number, tokens: number, model: InputModelSize): number {
  return mode.shape(heads, tokens, model).reduce((product, n) => product * n, 1);
}

/** Rows and columns, on a GPU, of X or its gradient of a given shape. */
export function inputRows(shape: readonly number[]): { readonly rows: number; readonly columns: number } {
  const columns = shape[shape.length - 1]!;
  return { rows: shape.slice(0, -1).reduce((product, n) => product * n, 1), columns };
}
