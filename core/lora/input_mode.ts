/**
 * What a LoRA head module reads of X, decided in one place.
 *
 * T tokens, d hidden size, H heads, n kept heads, r rank. X is [T, d].
 *
 * A mode is one object. It says which columns A has, what travels between edge server and devices,
 * how X is divided and how the gradient of X is put together, and which kernels compute with A.
 * `input_modes.ts` lists the modes: settings, checks, messages and help take their names from there.
 *
 * @module
 */

import type { ArenaMatrix, HeadColumnsOptions, Tensor } from "@edgetuner/kernels";

/** The sizes of a model that a mode depends on. */
export interface InputModelSize {
  /** H, heads of a layer. */
  readonly heads: number;
  /** d, hidden size. */
  readonly hidden: number;
}

/** X as head modules read it. */
export interface GatheredInput {
  /** Rows and columns as `InputMode.shape` says: all dimensions but the last one are rows. */
  readonly input: Tensor;
  /** False if it is X itself; if true the caller disposes it. */
  readonly owned: boolean;
}

/** The kept heads of a layer, and where their parameters lie. */
export interface HeadSlots {
  /** Parameters or gradients of all head modules of the layer. */
  readonly arena: Tensor;
  /** Where A lies in the arena: [r, columns]. */
  readonly matrix: ArenaMatrix;
  /** [1, n]: the kept heads. */
  readonly heads: Tensor;
}

/** One part of the values that `gather` gives: that of a device. */
export interface InputShare {
  /** Kept heads of the device. */
  readonly heads: number;
  /** Kept heads of the devices before it. */
  readonly before: number;
  /** T. */
  readonly tokens: number;
}

/** What a head module reads of X. */
export interface InputMode {
  /** Its name in settings. */
  readonly name: string;
  /** What a head module reads, in a few words, for help. */
  readonly summary: string;
  /** True if `gather` makes a copy of what it gives. */
  readonly copies: boolean;

  /** Columns of A: the numbers of a token that a head module reads. */
  columns(model: InputModelSize): number;

  /** The column of X that the first column of a head's A stands for: its place in a LoRA of the whole layer. */
  firstColumn(head: number, model: InputModelSize): number;

  /**
   * Shape of X, and of its gradient, as a device receives and returns it. The last two dimensions are
   * tokens and columns.
   *
   * @param heads n, kept heads of the device.
   * @param tokens T; `null` if any number may come.
   * @param model Sizes of the model.
   */
  shape<T extends number | null>(heads: number, tokens: T, model: InputModelSize): (number | T)[];

  /**
   * X as the kept heads read it.
   *
   * @param x [T, d]
   * @param columns The heads' columns of X: `columns(model)` of each.
   */
  gather(x: Tensor, columns: HeadColumnsOptions): GatheredInput;

  /** The values of one device among all values that `gather` gives. */
  shareOf(values: Float32Array, share: InputShare, model: InputModelSize): Float32Array;

  /**
   * Adds gradients of what `gather` gives to the gradient of X.
   *
   * @param dx Shape of what `gather` gives.
   * @param target Gradient of X, [T, d].
   * @param columns The heads that `dx` is of.
   */
  addGradient(dx: Tensor, target: Tensor, columns: HeadColumnsOptions): void;

  /**
   * The gradients that devices return, as `addGradient` takes them one after the other. Each addition
   * keeps the order of the devices, whatever the order of arrival: the same bits every time.
   *
   * @param answers In order of the devices.
   */
  join(answers: readonly Float32Array[]): readonly Float32Array[];

  /**
   * Heads whose columns of X the dropout mask is drawn for, where each head has `columns` of them.
   *
   * @param heads The kept heads, as they are numbered in the model.
   */
  dropoutHeads(heads: readonly number[]): readonly number[];

  /** x A^T of every kept head, [n * T, r]. */
  down(input: Tensor, slots: HeadSlots): Tensor;

  /**
   * Gradient of the input through A.
   *
   * @param dDown Gradient of `down`'s result, [n * T, r].
   * @param slots The kept heads.
   * @param sum Gradient of other targets to add to.
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
