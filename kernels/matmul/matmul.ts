/**
 * Matrix products, plain and batched over attention heads.
 *
 * @module
 */

import textureSource from "./matmul_texture.wgsl" with { type: "text" };
import tiledSource from "./matmul_tiled.wgsl" with { type: "text" };
import type { Bindable, Engine } from "../engine/engine.ts";
import { type BindingKind, defineKernel } from "../engine/kernel.ts";
import type { RowWindow, Tensor } from "../engine/tensor.ts";

/** Which triangle of a causal attention matrix a batched product may leave out. */
export type Causal = "none" | "skipUpper" | "innerBelow" | "innerAbove";

/** How a batched product finds its matrices inside larger ones: element (group, head) of each operand. */
export interface BatchLayout {
  /** Number of row groups (sequences of a batch). */
  readonly groups: number;
  /** Number of heads. */
  readonly heads: number;
  /** Rows of op(A) in one (group, head). */
  readonly m: number;
  /** Columns of op(B) in one (group, head). */
  readonly n: number;
  /** Inner length in one (group, head). */
  readonly k: number;
  /** First column of head 0 and columns from one head to the next, in the stored A; multiples of 4. */
  readonly a: HeadColumns;
  /** As `a`, in the stored B. */
  readonly b: HeadColumns;
  /** As `a`, in C. */
  readonly c: HeadColumns;
  /** Which part of the product is known to be zero or not needed. @default {"none"} */
  readonly causal?: Causal;
}

/** Where a head's columns lie. */
export interface HeadColumns {
  /** First column of head 0. */
  readonly first: number;
  /** Columns from one head to the next. */
  readonly stride: number;
}

/** Options of `matmul`. C = epilogue(alpha * op(A) op(B)); epilogues apply in the order listed. */
export interface MatmulOptions {
  /** A is stored [k, m]. @default {false} */
  readonly transposeA?: boolean;
  /** B is stored [n, k]. @default {false} */
  readonly transposeB?: boolean;
  /** Scale of the product. @default {1} */
  readonly alpha?: number;
  /** [1, n], added to every row. */
  readonly bias?: Tensor | undefined;
  /** C = gelu(sum); the sum itself is written here, [m, n], for the backward pass. */
  readonly geluInput?: Tensor | undefined;
  /** [m, n], added. */
  readonly residual?: Tensor | undefined;
  /** [m, n]: C is multiplied by gelu'(this). */
  readonly geluGradOf?: Tensor | undefined;
  /** C += instead of C =. Needs `out`. @default {false} */
  readonly accumulate?: boolean;
  /** Where the result goes. @default {a new tensor} */
  readonly out?: Tensor | undefined;
  /** Only these rows of the stored B take part. @default {all} */
  readonly rowsOfB?: { readonly first: number; readonly rows: number } | undefined;
  /** Batched product. Needs `out`. */
  readonly batch?: BatchLayout | undefined;
}

const FLAGS = { bias: 1, gelu: 2, residual: 4, geluGrad: 8, accumulate: 16 } as const;
const CAUSAL: Record<Causal, number> = { none: 0, skipUpper: 1, innerBelow: 2, innerAbove: 3 };

const PARAMETERS = [
  ["m", "u32"],
  ["n", "u32"],
  ["k", "u32"],
  ["flags", "u32"],
  ["heads", "u32"],
  ["a_row", "u32"],
  ["a_group_rows", "u32"],
  ["a_pitch4", "u32"],
  ["a_head_cols4", "u32"],
  ["a_col4", "u32"],
  ["b_row", "u32"],
  ["b_group_rows", "u32"],
  ["b_pitch4", "u32"],
  ["b_head_cols4", "u32"],
  ["b_col4", "u32"],
  ["c_row", "u32"],
  ["c_group_rows", "u32"],
  ["c_head_cols4", "u32"],
  ["c_col4", "u32"],
  ["c_pitch4", "u32"],
  ["aux_pitch4", "u32"],
  ["causal", "u32"],
  ["alpha", "f32"],
] as const;

function variants(name: string, source: string, operand: BindingKind) {
  const make = (transposeA: boolean, transposeB: boolean) =>
    defineKernel({
      name: `${name}_${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}`,
      source,
      bindings: [operand, operand, "write", "read", "write"],
      parameters: PARAMETERS,
      constants: { TRANSPOSE_A: Number(transposeA), TRANSPOSE_B: Number(transposeB) },
    });
  return { nn: make(false, false), nt: make(false, true), tn: make(true, false) };
}

const textureKernels = variants("matmul_texture", textureSource, "texture");
const tiledKernels = variants("matmul_tiled", tiledSource, "read");

/** Rows of an operand that one binding holds: windows of a texture or of a buffer. */
function rowsPerBinding(engine: Engine, tensor: Tensor): number {
  if (engine.adapterClass === "cpu") return engine.maxTextureSide;
  return Math.floor(engine.maxBindingBytes / (tensor.pitch * 4) / 16) * 16;
}

interface Segment {
  readonly start: number;
  readonly length: number;
}

/** Cuts 0 .. total so that no piece, moved by the offset, crosses a multiple of the size. */
function segments(total: number, ...cuts: { size: number; offset?: number }[]): Segment[] {
  const all: Segment[] = [];
  for (let start = 0; start < total;) {
    const ends = cuts.map(({ size, offset = 0 }) => (Math.floor((start + offset) / size) + 1) * size - offset);
    const end = Math.min(total, ...ends);
    all.push({ start, length: end - start });
    start = end;
  }
  return all;
}

/** The window of an operand that holds `row`, and where the row lies in it. */
function bindRows(engine: Engine, tensor: Tensor, row: number, perBinding: number): [Bindable, number] {
  if (engine.adapterClass === "cpu") {
    return [engine.stage(tensor)[Math.floor(row / perBinding)]!, row % perBinding];
  }
  if (tensor.bytes <= engine.maxBindingBytes) return [tensor, row];
  return [tensor.windows()[Math.floor(row / perBinding)]!, row % perBinding];
}

/**
 * Multiplies two matrices: C [m, n] = epilogue(alpha * op(A) [m, k] op(B) [k, n]).
 *
 * Operands larger than a binding or a texture of the adapter are multiplied in pieces.
 *
 * @returns C; the caller's to dispose.
 * @throws {TypeError} If shapes do not fit.
 * @example
 * ```ts ignore
 * using y = matmul(x, w, { bias, geluInput });
 * ```
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transposeA = false, transposeB = false, batch } = options;
  const engine = a.engine;
  if (transposeA && transposeB) {
    throw new TypeError("Cannot multiply as only one operand may be transposed: both are");
  }
  const m = batch?.m ?? (transposeA ? a.columns : a.rows);
  const k = batch?.k ?? (transposeA ? a.rows : a.columns);
  const bFirst = options.rowsOfB?.first ?? 0;
  const bRows = options.rowsOfB?.rows ?? b.rows;
  const n = batch?.n ?? (transposeB ? bRows : b.columns);
  if (batch === undefined) {
    const kB = transposeB ? b.columns : bRows;
    if (k !== kB) {
      throw new TypeError(
        `Cannot multiply "${a.label}" by "${b.label}" as inner lengths must be equal: op(A) is [${m}, ${k}], op(B) is [${kB}, ${n}]`,
      );
    }
  }
  const out = options.out ?? engine.tensor(m, n, "matmul");
  if (batch === undefined && (out.rows !== m || out.columns !== n)) {
    throw new TypeError(
      `Cannot multiply into "${out.label}" as it must be [${m}, ${n}]: it is [${out.rows}, ${out.columns}]`,
    );
  }
  const aux = options.geluInput ?? options.residual ?? options.geluGradOf;
  const linear = options.geluInput === undefined && options.geluGradOf === undefined;
  const flags = (options.bias ? FLAGS.bias : 0) | (options.geluInput ? FLAGS.gelu : 0) |
    (options.residual ? FLAGS.residual : 0) | (options.geluGradOf ? FLAGS.geluGrad : 0);
  const kernels = engine.adapterClass === "cpu" ? textureKernels : tiledKernels;
  const kernel = transposeA ? kernels.tn : transposeB ? kernels.nt : kernels.nn;
  const rowsA = rowsPerBinding(engine, a);
  const rowsB = rowsPerBinding(engine, b);
  const rowsC = Math.floor(engine.maxBindingBytes / (out.pitch * 4) / 16) * 16;
  const cutA = { size: rowsA };
  const cutB = { size: rowsB, offset: bFirst };
  const mParts = segments(m, { size: rowsC }, ...(transposeA ? [] : [cutA]));
  const kParts = segments(k, ...(transposeA ? [cutA] : []), ...(transposeB ? [] : [cutB]));
  const nParts = segments(n, ...(transposeB ? [cutB] : []));
  const whole = mParts.length * kParts.length * nParts.length === 1;
  if (!whole && (batch !== undefined || !linear || (aux !== undefined && mParts.length > 1))) {
    throw new RangeError(
      `Cannot multiply "${a.label}" by "${b.label}" with this epilogue as they must fit one binding of the adapter: [${m}, ${k}] by [${k}, ${n}]`,
    );
  }
  for (const mPart of mParts) {
    const c: Tensor | RowWindow = out.bytes <= engine.maxBindingBytes
      ? out
      : out.windows(mPart.start, mPart.length)[0]!;
    for (const nPart of nParts) {
      for (const kPart of kParts) {
        const first = kPart.start === 0;
        const [aBound, aRow] = bindRows(engine, a, transposeA ? kPart.start : mPart.start, rowsA);
        const [bBound, bRow] = bindRows(engine, b, bFirst + (transposeB ? nPart.start : kPart.start), rowsB);
        const groups = batch?.groups ?? 1;
        const heads = batch?.heads ?? 1;
        engine.dispatch(kernel, {
          bindings: [aBound, bBound, c, options.bias ?? engine.noRead, aux ?? engine.noWrite],
          parameters: {
            m: mPart.length,
            n: nPart.length,
            k: kPart.length,
            flags: (first ? flags : 0) | (options.accumulate || !first ? FLAGS.accumulate : 0),
            heads,
            a_row: aRow,
            a_group_rows: transposeA ? k : m,
            a_pitch4: a.pitch / 4,
            a_head_cols4: (batch?.a.stride ?? 0) / 4,
            a_col4: (batch?.a.first ?? (transposeA ? mPart.start : kPart.start)) / 4,
            b_row: bRow,
            b_group_rows: transposeB ? n : k,
            b_pitch4: b.pitch / 4,
            b_head_cols4: (batch?.b.stride ?? 0) / 4,
            b_col4: (batch?.b.first ?? (transposeB ? kPart.start : nPart.start)) / 4,
            c_row: c === out ? mPart.start : 0,
            c_group_rows: m,
            c_head_cols4: (batch?.c.stride ?? 0) / 4,
            c_col4: (batch?.c.first ?? nPart.start) / 4,
            c_pitch4: out.pitch / 4,
            aux_pitch4: (aux?.pitch ?? 0) / 4,
            causal: CAUSAL[batch?.causal ?? "none"],
            alpha: options.alpha ?? 1,
          },
          workgroups: engine.adapterClass === "cpu"
            ? [Math.ceil(mPart.length / 16), Math.ceil(nPart.length / 64), groups * heads]
            : [Math.ceil(nPart.length / 64), Math.ceil(mPart.length / 64), groups * heads],
        });
      }
    }
  }
  return out;
}
