/**
 * Matrix products, plain and batched over attention heads.
 *
 * @module
 */

import textureSource from "./matmul_texture.wgsl" with { type: "text" };
import tiledSource from "./matmul_tiled.wgsl" with { type: "text" };
import type { Bindable } from "../engine/engine.ts";
import type { AdapterClass } from "../engine/adapter.ts";
import { defineKernel, type Kernel } from "../engine/kernel.ts";
import { type StagedTexture, type Tensor, WINDOW_ROWS } from "../engine/tensor.ts";
import { bindResult, FLAGS, requireShape, rowsPerBuffer, segments } from "./epilogue.ts";
import { packedMatmul } from "../packed/packed_matmul.ts";
import { PackedMatrix } from "../packed/packed_matrix.ts";
import { type MatmulTile, tileFor } from "./tiles.ts";

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
  /** First row of group 0. @default {0} */
  readonly row?: number;
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

const CAUSAL: Record<Causal, number> = { none: 0, skipUpper: 1, innerBelow: 2, innerAbove: 3 };

const PARAMETERS = [
  ["m", "u32"],
  ["n", "u32"],
  ["k", "u32"],
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
  ["n_first4", "u32"],
  ["causal", "u32"],
  ["alpha", "f32"],
] as const;

type MatmulKernel = Kernel<typeof PARAMETERS[number][0]>;

/** Kernels made so far, by form, transposition and epilogue: a few of the many combinations are used. */
const kernels = new Map<string, MatmulKernel>();

function kernelFor(
  form: AdapterClass,
  transposeA: boolean,
  transposeB: boolean,
  epilogue: number,
  tile: MatmulTile,
): MatmulKernel {
  const which = `${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}_${epilogue}`;
  const name = `matmul_${form === "software" ? "texture" : `tiled_${tile.rows}x${tile.columns}`}_${which}`;
  let kernel = kernels.get(name);
  if (kernel === undefined) {
    const operand = form === "software" ? "texture" : "read";
    kernel = defineKernel({
      name,
      source: form === "software" ? textureSource : tiledSource,
      bindings: [operand, operand, "write", "read", "write"],
      parameters: PARAMETERS,
      constants: {
        TRANSPOSE_A: Number(transposeA),
        TRANSPOSE_B: Number(transposeB),
        EPILOGUE: epilogue,
        ...(form === "hardware" ? { TILE_M4: tile.rows / 4, TILE_N4: tile.columns / 4 } : {}),
      },
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
  batch: BatchLayout,
  { first, stride, row = 0 }: HeadColumns,
  rows: number,
  columns: number,
): void {
  if (first % 4 !== 0 || stride % 4 !== 0) {
    throw new TypeError(
      `Cannot multiply in batches as first column and stride of ${name} must be multiples of 4: they are ${first} and ${stride}`,
    );
  }
  const neededRows = row + batch.groups * rows;
  const neededColumns = first + (batch.heads - 1) * stride + columns;
  if (tensor.rows < neededRows || tensor.columns < neededColumns) {
    throw new TypeError(
      `Cannot multiply in batches as ${name} "${tensor.label}" must be at least [${neededRows}, ${neededColumns}]: it is [${tensor.rows}, ${tensor.columns}]`,
    );
  }
}

/** Checks everything about the arguments that does not depend on the adapter. */
function requireShapes(
  a: Tensor,
  b: Tensor,
  options: MatmulOptions,
  [m, n, k]: readonly [number, number, number],
): void {
  const { transposeA = false, transposeB = false, batch, out, bias, geluInput, residual, geluGradOf } =
    options;
  const aux = [geluInput, residual, geluGradOf].filter((t) => t !== undefined);
  if (aux.length > 1) {
    throw new TypeError(
      `Cannot multiply as at most one of geluInput, residual and geluGradOf may be given: ${aux.length} are`,
    );
  }
  if (out === undefined && (batch !== undefined || options.accumulate)) {
    throw new TypeError(`Cannot multiply as a batched or accumulated product needs "out": it is missing`);
  }
  const { first, rows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  if (first + rows > b.rows) {
    throw new TypeError(
      `Cannot multiply as the rows of B must lie in "${b.label}" [${b.rows}, ${b.columns}]: they are ${first} to ${
        first + rows
      }`,
    );
  }
  if (batch !== undefined) {
    if (bias !== undefined || aux.length > 0) {
      throw new TypeError("Cannot multiply in batches with an epilogue other than accumulation");
    }
    requireBatch("op(A)", a, batch, batch.a, transposeA ? k : m, transposeA ? m : k);
    requireBatch("op(B)", b, batch, batch.b, transposeB ? n : k, transposeB ? k : n);
    requireBatch("C", out!, batch, batch.c, m, n);
  } else {
    const kB = transposeB ? b.columns : rows;
    if (k !== kB) {
      throw new TypeError(
        `Cannot multiply "${a.label}" by "${b.label}" as inner lengths must be equal: op(A) is [${m}, ${k}], op(B) is [${kB}, ${n}]`,
      );
    }
    requireShape("out", out, m, n);
    requireShape("bias", bias, 1, n);
    requireShape("geluInput", geluInput, m, n);
    requireShape("residual", residual, m, n);
    requireShape("geluGradOf", geluGradOf, m, n);
  }
  // Writable bindings may not overlap others. (They would not on software adapters, which read copies.)
  for (const written of [out, ...aux]) {
    if (written !== undefined && [a, b, bias, out, ...aux].filter((t) => t === written).length > 1) {
      throw new TypeError(
        `Cannot multiply as "out" and tensors of epilogues must not be used twice: "${written.label}" is`,
      );
    }
  }
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
 * @example
 * ```ts ignore
 * using y = matmul(x, w, { bias, geluInput });
 * ```
 */
export function matmul(a: Tensor, b: Tensor | PackedMatrix, options: MatmulOptions = {}): Tensor {
  if (b instanceof PackedMatrix) return packedMatmul(a, b, options);
  const { transposeA = false, transposeB = false, batch } = options;
  const engine = a.engine;
  if (transposeA && transposeB) {
    throw new TypeError("Cannot multiply as only one operand may be transposed: both are");
  }
  const m = batch?.m ?? (transposeA ? a.columns : a.rows);
  const k = batch?.k ?? (transposeA ? a.rows : a.columns);
  const { first: bFirst, rows: bRows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  const n = batch?.n ?? (transposeB ? bRows : b.columns);
  requireShapes(a, b, options, [m, n, k]);
  const aux = options.geluInput ?? options.residual ?? options.geluGradOf;
  const flags = (options.bias ? FLAGS.bias : 0) | (options.geluInput ? FLAGS.gelu : 0) |
    (options.residual ? FLAGS.residual : 0) | (options.geluGradOf ? FLAGS.geluGrad : 0);
  const inOnePiece = [a, b].every((operand) => operand.rows <= rowsPerOperand(operand)) &&
    (options.out === undefined || options.out.bytes <= engine.maxBindingBytes);
  if (batch !== undefined) {
    const out = options.out!;
    if (inOnePiece) {
      const [aBound, bBound] = [bindOperand(a, 0)[0], bindOperand(b, 0)[0]];
      recordBatch(a, b, { ...options, batch, out }, { a: [aBound, 0], b: [bBound, 0], c: [out, 0] });
    } else {
      multiplyInRuns(a, b, { ...options, batch, out });
    }
    return out;
  }
  const cutA = { size: rowsPerOperand(a) };
  const cutB = { size: rowsPerOperand(b), offset: bFirst };
  const kParts = segments(k, ...(transposeA ? [cutA] : []), ...(transposeB ? [] : [cutB]));
  const nParts = segments(n, ...(transposeB ? [cutB] : []));
  // C cannot hold both what is to be added to and the sum that gelu is waiting for.
  const needsTwoSums = options.accumulate === true && (flags & (FLAGS.gelu | FLAGS.geluGrad)) !== 0;
  if (kParts.length > 1 && needsTwoSums) {
    throw new RangeError(
      `Cannot multiply "${a.label}" by "${b.label}" and add gelu to a result as the inner length must fit one binding of the adapter: [${a.rows}, ${a.columns}] by [${b.rows}, ${b.columns}]`,
    );
  }
  if (kParts.length * nParts.length > 1 && bFirst % 4 !== 0) {
    throw new RangeError(
      `Cannot multiply by rows of "${b.label}" in pieces as the first row must be a multiple of 4: current value is ${bFirst}`,
    );
  }
  const out = options.out ?? engine.tensor(m, n, "matmul");
  const mParts = segments(m, { size: rowsPerBuffer(out) }, ...(transposeA ? [] : [cutA]));
  for (const mPart of mParts) {
    const [c, cRow] = bindResult(out, mPart);
    const auxBound = aux === undefined ? engine.nullOutput : bindResult(aux, mPart)[0];
    for (const nPart of nParts) {
      for (const kPart of kParts) {
        const first = kPart.start === 0;
        const [aBound, aRow] = bindOperand(a, transposeA ? kPart.start : mPart.start);
        const [bBound, bRow] = bindOperand(b, bFirst + (transposeB ? nPart.start : kPart.start));
        // The first part begins the sum, the last one has the epilogue.
        const epilogue = (kPart === kParts.at(-1) ? flags : 0) | (first ? 0 : FLAGS.partial) |
          (first && options.accumulate ? FLAGS.accumulate : 0);
        const tile = tileFor(engine.matmulTiles, mPart.length, nPart.length, 1);
        engine.dispatch(kernelFor(engine.adapterClass, transposeA, transposeB, epilogue, tile), {
          bindings: [aBound, bBound, c, options.bias ?? engine.nullInput, auxBound],
          parameters: {
            m: mPart.length,
            n: nPart.length,
            k: kPart.length,
            heads: 1,
            a_row: aRow,
            a_group_rows: 0,
            a_pitch4: a.pitch / 4,
            a_head_cols4: 0,
            a_col4: (transposeA ? mPart.start : kPart.start) / 4,
            b_row: bRow,
            b_group_rows: 0,
            b_pitch4: b.pitch / 4,
            b_head_cols4: 0,
            b_col4: (transposeB ? kPart.start : 0) / 4,
            c_row: cRow,
            c_group_rows: 0,
            c_head_cols4: 0,
            c_col4: nPart.start / 4,
            c_pitch4: out.pitch / 4,
            aux_pitch4: (aux?.pitch ?? 0) / 4,
            n_first4: nPart.start / 4,
            causal: CAUSAL.none,
            alpha: options.alpha ?? 1,
          },
          workgroups: workgroupsFor(engine.adapterClass, tile, [mPart.length, nPart.length, 1]),
        });
      }
    }
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
  { transposeA = false, transposeB = false, accumulate, alpha = 1, batch, out }: BatchOptions,
  bound: { readonly a: Placed; readonly b: Placed; readonly c: Placed },
): void {
  const { engine } = a;
  const { m, n, k, heads, groups } = batch;
  const epilogue = accumulate ? FLAGS.accumulate : 0;
  const tile = tileFor(engine.matmulTiles, m, n, groups * heads);
  engine.dispatch(kernelFor(engine.adapterClass, transposeA, transposeB, epilogue, tile), {
    bindings: [bound.a[0], bound.b[0], bound.c[0], engine.nullInput, engine.nullOutput],
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
