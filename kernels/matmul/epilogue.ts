/**
 * What all matrix products share: flags of the epilogue, and how large matrices are cut to fit bindings.
 *
 * @module
 */

import type { Bindable, Tensor } from "../engine/tensor.ts";

import { auxiliaryOf, type MatmulOptions } from "./options.ts";

/** Parts of an epilogue, as `prelude/epilogue.wgsl` numbers them. */
export const FLAGS = { bias: 1, gelu: 2, residual: 4, geluGrad: 8, accumulate: 16, partial: 32 } as const;

/** Some of a matrix's rows, or of the inner length. */
export interface Segment {
  /** The first one. */
  readonly start: number;
  /** How many. */
  readonly length: number;
}

/** Cuts 0 .. total so that no piece, moved by the offset, crosses a multiple of the size. */
export function segments(total: number, ...cuts: { size: number; offset?: number }[]): Segment[] {
  const all: Segment[] = [];
  for (let start = 0; start < total;) {
    const ends = cuts.map(({ size, offset = 0 }) =>
      (Math.floor((start + offset) / size) + 1) * size - offset
    );
    const end = Math.min(total, ...ends);
    all.push({ start, length: end - start });
    start = end;
  }
  return all;
}

/** Rows of a tensor that one binding holds, as `Tensor.windows` cuts them; `Infinity` if it fits whole. */
export function rowsPerBuffer(tensor: Tensor): number {
  return tensor.bytes <= tensor.engine.maxBindingBytes ? Infinity : tensor.windows()[0]!.rows;
}

/** A product in pieces. */
export interface Pieces {
  /** Pieces of op(A)'s rows; cut further where C does not fit a binding. */
  readonly m: { readonly length: number; readonly cut: number };
  /** Pieces of op(B)'s columns. */
  readonly n: readonly Segment[];
  /** Pieces of the inner length. */
  readonly k: readonly Segment[];
}

/** One dispatch of a product. */
export interface Piece {
  /** Its rows of C. */
  readonly m: Segment;
  /** Its columns of C. */
  readonly n: Segment;
  /** Its part of the inner length. */
  readonly k: Segment;
  /** What is done to the sums, as `FLAGS`. */
  readonly epilogue: number;
  /** Rows of C, as they are bound. */
  readonly c: Bindable;
  /** Row of `c` that is row `m.start` of C. */
  readonly cRow: number;
  /** As `c`, of the epilogue's auxiliary tensor. */
  readonly aux: Bindable;
}

/**
 * The dispatches of a product, in order: of each piece of C the first one begins the sum, the last one has the
 * epilogue.
 *
 * @param pieces How op(A) and op(B) are cut.
 * @param options Options of the product.
 * @param out C.
 * @throws {RangeError} If the inner length is cut and C would have to hold two sums.
 */
export function* piecesOf(pieces: Pieces, options: MatmulOptions, out: Tensor): Generator<Piece> {
  const { engine } = out;
  const aux = auxiliaryOf(options);
  const flags = (options.bias ? FLAGS.bias : 0) | (options.geluInput ? FLAGS.gelu : 0) |
    (options.residual ? FLAGS.residual : 0) | (options.geluGradOf ? FLAGS.geluGrad : 0);
  const lastK = pieces.k.at(-1);
  // C cannot hold both what is to be added to and the sum that gelu is waiting for.
  if (pieces.k.length > 1 && options.accumulate && (flags & (FLAGS.gelu | FLAGS.geluGrad)) !== 0) {
    throw new RangeError(
      `Cannot multiply and add gelu to the result "${out.label}" as the inner length must fit one binding of the adapter: it is cut in ${pieces.k.length}`,
    );
  }
  for (const m of segments(pieces.m.length, { size: rowsPerBuffer(out) }, { size: pieces.m.cut })) {
    const [c, cRow] = bindResult(out, m);
    const auxBound = aux === undefined ? engine.nullOutput : bindResult(aux, m)[0];
    for (const n of pieces.n) {
      for (const k of pieces.k) {
        const first = k.start === 0;
        const epilogue = (k === lastK ? flags : 0) | (first ? 0 : FLAGS.partial) |
          (first && options.accumulate ? FLAGS.accumulate : 0);
        yield { m, n, k, epilogue, c, cRow, aux: auxBound };
      }
    }
  }
}

/** Some rows of a result, or of what has its shape, and where the first one lies in what is bound. */
function bindResult(tensor: Tensor, { start, length }: Segment): [Bindable, number] {
  if (tensor.bytes <= tensor.engine.maxBindingBytes) return [tensor, start];
  return [tensor.windows(start, length)[0]!, 0];
}
