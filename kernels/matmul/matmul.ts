/**
 * Matrix products, plain and batched over attention heads.
 *
 * @module
 */

import textureSource from "./matmul_texture.wgsl" with { type: "text" };
import tiledSource from "./matmul_tiled.wgsl" with { type: "text" };
import { type Bindable, type StagedTexture, type Tensor, WINDOW_ROWS } from "../engine/tensor.ts";
import type { AdapterClass } from "../engine/adapter.ts";
import { defineKernel, type Kernel } from "../engine/kernel.ts";

import { PackedMatrix } from "../packed/packed_matrix.ts";
import { FLAGS, piecesOf, rowsPerBuffer, segments } from "./epilogue.ts";
import {
  auxiliaryOf,
  type BatchLayout,
  type Causal,
  type HeadColumns,
  type MatmulOptions,
  type ProductShape,
  requireDistinct,
  requireEpilogue,
  requireResultShapes,
} from "./options.ts";
import { packedMatmul } from "./packed_matmul.ts";
import { type MatmulTile, matmulTiles, tileFor } from "./tiles.ts";
import { EPILOGUE, MATMUL, TILES } from "../prelude/mod.ts";

const CAUSAL: Record<Causal, number> = { none: 0, skipUpper: 1, innerBelow: 2, innerAbove: 3 };

const PARAMETERS = [
  "m",
  "n",
  "k",
  "heads",
  "a_row",
  "a_group_rows",
  "a_pitch4",
  "a_head_cols4",
  "a_col4",
  "b_row",
  "b_group_rows",
  "b_pitch4",
  "b_head_cols4",
  "b_col4",
  "c_row",
  "c_group_rows",
  "c_head_cols4",
  "c_col4",
  "c_pitch4",
  "aux_pitch4",
  "n_first4",
  "causal",
  "alpha",
] as const;

const BINDINGS = ["a", "b", "c", "bias", "aux"] as const;

type MatmulKernel = Kernel<typeof PARAMETERS[number], typeof BINDINGS[number]>;

/** Kernels made so far, by form, transposition and epilogue: a few of the many combinations are used. */
const kernels = new Map<string, MatmulKernel>();

function kernelFor(
  form: AdapterClass,
  { transposeA = false, transposeB = false }: MatmulOptions,
  epilogue: number,
  tile: MatmulTile,
): MatmulKernel {
  const which = `${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}_${epilogue}`;
  const name = `matmul_${form === "software" ? "texture" : `tiled_${tile.rows}x${tile.columns}`}_${which}`;
  let kernel = kernels.get(name);
  if (kernel === undefined) {
    const variant = {
      TRANSPOSE_A: Number(transposeA),
      TRANSPOSE_B: Number(transposeB),
      EPILOGUE: epilogue,
    };
    const shared = { name, bindings: BINDINGS, parameters: PARAMETERS };
    kernel = form === "software"
      ? defineKernel({
        ...shared,
        file: "matmul/matmul_texture.wgsl",
        source: textureSource,
        preludes: [MATMUL, ...EPILOGUE],
        constants: variant,
      })
      : defineKernel({
        ...shared,
        file: "matmul/matmul_tiled.wgsl",
        source: tiledSource,
        preludes: [MATMUL, TILES, ...EPILOGUE],
        constants: { ...variant, TILE_M4: tile.rows / 4, TILE_N4: tile.columns / 4 },
      });
    kernels.set(name, kernel);
  }
  return kernel;
}

/** Rows of an operand that one binding holds: windows of a texture or of a buffer. */
function rowsPerOperand(tensor: Tensor): number {
  const { adapterClass, maxTextureSide } = tensor.engine;
  return adapterClass === "software" ? maxTextureSide : rowsPerBuffer(tensor);
}

/** The window of an operand that holds `row`, and where the row lies in it. */
function bindOperand(tensor: Tensor, row: number): [Bindable, number] {
  const perBinding = rowsPerOperand(tensor);
  if (tensor.engine.adapterClass === "software") {
    return [tensor.engine.stage(tensor)[Math.floor(row / perBinding)]!, row % perBinding];
  }
  if (perBinding === Infinity) return [tensor, row];
  return [tensor.windows()[Math.floor(row / perBinding)]!, row % perBinding];
}

/** Checks that [rows, columns] of every (group, head) lie inside a stored matrix. */
function requireBatch(
  name: string,
  tensor: Tensor,
  { groups, heads }: BatchLayout,
  { first, stride, row = 0, shape: [rows, columns] }: HeadColumns & {
    readonly shape: readonly [number, number];
  },
): void {
  if (first % 4 !== 0 || stride % 4 !== 0) {
    throw new TypeError(
      `Cannot multiply in batches as first column and stride of ${name} must be multiples of 4: they are ${first} and ${stride}`,
    );
  }
  const neededRows = row + groups * rows;
  const neededColumns = first + (heads - 1) * stride + columns;
  if (tensor.rows < neededRows || tensor.columns < neededColumns) {
    throw new TypeError(
      `Cannot multiply in batches as ${name} "${tensor.label}" must be at least [${neededRows}, ${neededColumns}]: it is [${tensor.rows}, ${tensor.columns}]`,
    );
  }
}

/** Checks everything about the arguments that does not depend on the adapter. */
function requireShapes(a: Tensor, b: Tensor, options: MatmulOptions, shape: ProductShape): void {
  const [m, n, k] = shape;
  const { transposeA = false, transposeB = false, batch } = options;
  requireEpilogue(options);
  const { first, rows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  if (first + rows > b.rows) {
    throw new TypeError(
      `Cannot multiply as the rows of B must lie in "${b.label}" [${b.rows}, ${b.columns}]: they are ${first} to ${
        first + rows
      }`,
    );
  }
  if (batch !== undefined) {
    if (options.bias !== undefined || auxiliaryOf(options) !== undefined) {
      throw new TypeError("Cannot multiply in batches with an epilogue other than accumulation");
    }
    requireBatch("op(A)", a, batch, { ...batch.a, shape: transposeA ? [k, m] : [m, k] });
    requireBatch("op(B)", b, batch, { ...batch.b, shape: transposeB ? [n, k] : [k, n] });
    requireBatch("C", options.out!, batch, { ...batch.c, shape: [m, n] });
    requireDistinct(options, [a, b]);
    return;
  }
  const kB = transposeB ? b.columns : rows;
  if (k !== kB) {
    throw new TypeError(
      `Cannot multiply "${a.label}" by "${b.label}" as inner lengths must be equal: op(A) is [${m}, ${k}], op(B) is [${kB}, ${n}]`,
    );
  }
  requireResultShapes(options, shape);
  requireDistinct(options, [a, b]);
}

/**
 * Multiplies two matrices: C [m, n] = epilogue(alpha * op(A) [m, k] op(B) [k, n]).
 *
 * Operands larger than a binding or a texture of the adapter are multiplied in pieces; batched
 * products over some groups at a time.
 *
 * B may be packed weights, which are read as they are; then A cannot be transposed, nor products batched.
 *
 * @returns C; the caller's to dispose.
 * @throws {TypeError} If shapes do not fit.
 * @throws {RangeError} If pieces that fit the adapter cannot be made.
 * @example
 * ```ts ignore
 * using y = matmul(x, w, { bias, geluInput });
 * ```
 */
export function matmul(a: Tensor, b: Tensor | PackedMatrix, options: MatmulOptions = {}): Tensor {
  if (b instanceof PackedMatrix) return packedMatmul(a, b, options);
  const { transposeA = false, transposeB = false, batch } = options;
  if (transposeA && transposeB) {
    throw new TypeError("Cannot multiply as only one operand may be transposed: both are");
  }
  const m = batch?.m ?? (transposeA ? a.columns : a.rows);
  const k = batch?.k ?? (transposeA ? a.rows : a.columns);
  const n = batch?.n ?? (transposeB ? options.rowsOfB?.rows ?? b.rows : b.columns);
  requireShapes(a, b, options, [m, n, k]);
  if (batch === undefined) return multiply(a, b, options, [m, n, k]);
  const out = options.out!;
  const inOnePiece = [a, b].every((operand) => operand.rows <= rowsPerOperand(operand)) &&
    out.bytes <= a.engine.maxBindingBytes;
  if (inOnePiece) {
    const [aBound, bBound] = [bindOperand(a, 0)[0], bindOperand(b, 0)[0]];
    recordBatch(a, b, { ...options, batch, out }, { a: [aBound, 0], b: [bBound, 0], c: [out, 0] });
  } else {
    multiplyInRuns(a, b, { ...options, batch, out });
  }
  return out;
}

/** A product that is not batched. */
function multiply(a: Tensor, b: Tensor, options: MatmulOptions, [m, n, k]: ProductShape): Tensor {
  const { transposeA = false, transposeB = false } = options;
  const { engine } = a;
  const bFirst = options.rowsOfB?.first ?? 0;
  const cutA = { size: rowsPerOperand(a) };
  const cutB = { size: rowsPerOperand(b), offset: bFirst };
  const pieces = {
    m: { length: m, cut: transposeA ? Infinity : cutA.size },
    n: segments(n, ...(transposeB ? [cutB] : [])),
    k: segments(k, ...(transposeA ? [cutA] : []), ...(transposeB ? [] : [cutB])),
  };
  if (pieces.k.length * pieces.n.length > 1 && bFirst % 4 !== 0) {
    throw new RangeError(
      `Cannot multiply by rows of "${b.label}" in pieces as the first row must be a multiple of 4: current value is ${bFirst}`,
    );
  }
  const out = options.out ?? engine.tensor(m, n, "matmul");
  const auxPitch = auxiliaryOf(options)?.pitch ?? 0;
  for (const piece of piecesOf(pieces, options, out)) {
    const [aBound, aRow] = bindOperand(a, transposeA ? piece.k.start : piece.m.start);
    const [bBound, bRow] = bindOperand(b, bFirst + (transposeB ? piece.n.start : piece.k.start));
    const tile = tileFor(matmulTiles(engine), piece.m.length, piece.n.length, 1);
    engine.dispatch(kernelFor(engine.adapterClass, options, piece.epilogue, tile), {
      bindings: { a: aBound, b: bBound, c: piece.c, bias: options.bias ?? engine.nullInput, aux: piece.aux },
      parameters: {
        m: piece.m.length,
        n: piece.n.length,
        k: piece.k.length,
        heads: 1,
        a_row: aRow,
        a_group_rows: 0,
        a_pitch4: a.pitch / 4,
        a_head_cols4: 0,
        a_col4: (transposeA ? piece.m.start : piece.k.start) / 4,
        b_row: bRow,
        b_group_rows: 0,
        b_pitch4: b.pitch / 4,
        b_head_cols4: 0,
        b_col4: (transposeB ? piece.k.start : 0) / 4,
        c_row: piece.cRow,
        c_group_rows: 0,
        c_head_cols4: 0,
        c_col4: piece.n.start / 4,
        c_pitch4: out.pitch / 4,
        aux_pitch4: auxPitch / 4,
        n_first4: piece.n.start / 4,
        causal: CAUSAL.none,
        alpha: options.alpha ?? 1,
      },
      workgroups: workgroupsFor(engine.adapterClass, tile, [piece.m.length, piece.n.length, 1]),
    });
  }
  return out;
}

function workgroupsFor(
  form: AdapterClass,
  tile: MatmulTile,
  [m, n, matrices]: readonly [number, number, number],
): [number, number, number] {
  return form === "software"
    ? [Math.ceil(m / 16), Math.ceil(n / 64), matrices]
    : [Math.ceil(n / tile.columns), Math.ceil(m / tile.rows), matrices];
}

type BatchOptions = MatmulOptions & { readonly batch: BatchLayout; readonly out: Tensor };

/** What is bound for an operand or the result, and the row in it where the tensor's row 0 would lie. */
type Placed = readonly [Bindable, number];

/** Records one dispatch over all groups of the batch. */
function recordBatch(
  a: Tensor,
  b: Tensor,
  options: BatchOptions,
  bound: { readonly a: Placed; readonly b: Placed; readonly c: Placed },
): void {
  const { engine } = a;
  const { transposeA = false, transposeB = false, alpha = 1, batch, out } = options;
  const { m, n, k, heads, groups } = batch;
  const epilogue = options.accumulate ? FLAGS.accumulate : 0;
  const tile = tileFor(matmulTiles(engine), m, n, groups * heads);
  engine.dispatch(kernelFor(engine.adapterClass, options, epilogue, tile), {
    bindings: {
      a: bound.a[0],
      b: bound.b[0],
      c: bound.c[0],
      bias: engine.nullInput,
      aux: engine.nullOutput,
    },
    parameters: {
      m,
      n,
      k,
      heads,
      a_row: bound.a[1] + (batch.a.row ?? 0),
      a_group_rows: transposeA ? k : m,
      a_pitch4: a.pitch / 4,
      a_head_cols4: batch.a.stride / 4,
      a_col4: batch.a.first / 4,
      b_row: bound.b[1] + (batch.b.row ?? 0),
      b_group_rows: transposeB ? n : k,
      b_pitch4: b.pitch / 4,
      b_head_cols4: batch.b.stride / 4,
      b_col4: batch.b.first / 4,
      c_row: bound.c[1] + (batch.c.row ?? 0),
      c_group_rows: m,
      c_head_cols4: batch.c.stride / 4,
      c_col4: batch.c.first / 4,
      c_pitch4: out.pitch / 4,
      aux_pitch4: 0,
      n_first4: 0,
      causal: CAUSAL[batch.causal ?? "none"],
      alpha,
    },
    workgroups: workgroupsFor(engine.adapterClass, tile, [m, n, groups * heads]),
  });
}

/** A batched product over as many groups at a time as one binding of each tensor holds. */
function multiplyInRuns(a: Tensor, b: Tensor, options: BatchOptions): void {
  const { transposeA = false, transposeB = false, batch, out } = options;
  const { engine } = a;
  const { m, n, k, groups } = batch;
  const onTextures = engine.adapterClass === "software";
  const parts = [
    { tensor: a, rows: transposeA ? k : m, row: batch.a.row ?? 0, operand: onTextures },
    { tensor: b, rows: transposeB ? n : k, row: batch.b.row ?? 0, operand: onTextures },
    { tensor: out, rows: m, row: batch.c.row ?? 0, operand: false },
  ];
  const most = Math.min(
    ...parts.map(({ tensor, rows, operand }) =>
      Math.floor((operand ? rowsPerTexture : rowsPerWindow)(tensor) / rows)
    ),
  );
  if (most === 0) {
    throw new RangeError(
      `Cannot multiply "${a.label}" by "${b.label}" in batches as the rows of one group must fit a binding of the adapter: ${m} x ${k} by ${k} x ${n} of [${a.rows}, ${a.columns}], [${b.rows}, ${b.columns}] and [${out.rows}, ${out.columns}]`,
    );
  }
  for (let group = 0; group < groups; group += most) {
    const count = Math.min(most, groups - group);
    const staged: StagedTexture[] = [];
    const [placedA, placedB, placedC] = parts.map(({ tensor, rows, row, operand }): Placed => {
      const window = tensor.windowAt(row + group * rows, count * rows);
      if (!operand) return [window, -window.row];
      if (tensor.rows <= engine.maxTextureSide) return [engine.stage(tensor)[0]!, 0];
      const texture = engine.stageWindow(window);
      staged.push(texture);
      return [texture, -window.row];
    }) as [Placed, Placed, Placed];
    const at = (layout: HeadColumns, { rows, row }: { rows: number; row: number }) => ({
      ...layout,
      row: row + group * rows,
    });
    recordBatch(a, b, {
      ...options,
      batch: {
        ...batch,
        groups: count,
        a: at(batch.a, parts[0]!),
        b: at(batch.b, parts[1]!),
        c: at(batch.c, parts[2]!),
      },
    }, { a: placedA, b: placedB, c: placedC });
    // Later work that gets the same memory comes later in the queue.
    for (const texture of staged) engine.releaseStaged(texture);
  }
}

/** Rows from any row on that a window of a buffer holds. */
function rowsPerWindow(tensor: Tensor): number {
  const { maxBindingBytes } = tensor.engine;
  if (tensor.bytes <= maxBindingBytes) return Infinity;
  return Math.max(0, Math.floor(maxBindingBytes / (tensor.pitch * 4)) - WINDOW_ROWS + 1);
}

/** Rows from any row on that a texture holds. */
function rowsPerTexture(tensor: Tensor): number {
  const { maxTextureSide } = tensor.engine;
  return tensor.rows <= maxTextureSide ? Infinity : Math.max(0, maxTextureSide - WINDOW_ROWS + 1);
}
