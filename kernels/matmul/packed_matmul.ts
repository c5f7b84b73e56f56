/**
 * Matrix products with packed weights.
 *
 * @module
 */

import textureSource from "./packed_matmul_texture.wgsl" with { type: "text" };
import tiledSource from "./packed_matmul_tiled.wgsl" with { type: "text" };
import type { Bindable, Tensor } from "../engine/tensor.ts";
import { defineKernel, type Kernel } from "../engine/kernel.ts";

import { PACKED_FORMATS } from "../packed/formats.ts";
import type { PackedMatrix } from "../packed/packed_matrix.ts";
import { piecesOf, rowsPerBuffer, segments } from "./epilogue.ts";
import {
  auxiliaryOf,
  type MatmulOptions,
  type ProductShape,
  requireDistinct,
  requireEpilogue,
  requireResultShapes,
} from "./options.ts";
import { type MatmulTile, matmulTiles, tileFor } from "./tiles.ts";
import { EPILOGUE, PACKED, PACKED_CODES, PACKED_MATMUL, TILES } from "../prelude/mod.ts";

const PARAMETERS = [
  "m",
  "n",
  "k",
  "a_row",
  "a_col4",
  "a_pitch4",
  "b_row",
  "b_pitch",
  "s_row",
  "s_pitch",
  "c_row",
  "c_col4",
  "c_pitch4",
  "aux_pitch4",
  "n_first4",
  "alpha",
] as const;

const RESULTS = ["scales", "c", "bias", "aux"] as const;
/** The software form reads the same words in groups of four, of two and alone. */
const TEXTURE_BINDINGS = ["a", "words4", "words2", "words", ...RESULTS] as const;
const TILED_BINDINGS = ["a", "words", ...RESULTS] as const;

type PackedKernel = Kernel<typeof PARAMETERS[number], typeof TEXTURE_BINDINGS[number]>;

/** Kernels made so far, by form, format, transposition and epilogue: a few of the many are used. */
const kernels = new Map<string, PackedKernel>();

function kernelFor(
  b: PackedMatrix,
  { transposeB = false }: MatmulOptions,
  epilogue: number,
  tile: MatmulTile,
): PackedKernel {
  const { format, groupsAlong, engine: { adapterClass: form } } = b;
  const which = `${format}_${groupsAlong}_${transposeB ? "t" : "n"}_${epilogue}`;
  const tileName = `tiled_${tile.rows}x${tile.columns}`;
  const name = `packed_matmul_${form === "software" ? "texture" : tileName}_${which}`;
  let kernel = kernels.get(name);
  if (kernel === undefined) {
    const { code, group } = PACKED_FORMATS[format];
    const variant = {
      TRANSPOSE_B: Number(transposeB),
      EPILOGUE: epilogue,
      FORMAT: code,
      GROUP: group || 1,
      ALONG_ROWS: Number(groupsAlong === "rows"),
    };
    kernel = form === "software"
      ? defineKernel({
        name,
        file: "matmul/packed_matmul_texture.wgsl",
        source: textureSource,
        preludes: [PACKED_MATMUL, PACKED, ...EPILOGUE],
        bindings: TEXTURE_BINDINGS,
        parameters: PARAMETERS,
        constants: variant,
      })
      : defineKernel({
        name,
        file: "matmul/packed_matmul_tiled.wgsl",
        source: tiledSource,
        preludes: [PACKED_MATMUL, PACKED, PACKED_CODES, TILES, ...EPILOGUE],
        bindings: TILED_BINDINGS,
        parameters: PARAMETERS,
        constants: { ...variant, TILE_M4: tile.rows / 4, TILE_N4: tile.columns / 4 },
      });
    kernels.set(name, kernel);
  }
  return kernel;
}

function requireShapes(a: Tensor, b: PackedMatrix, options: MatmulOptions, shape: ProductShape): void {
  const [m, n, k] = shape;
  const { transposeA, transposeB = false, batch } = options;
  if (transposeA === true || batch !== undefined) {
    throw new TypeError(
      `Cannot multiply by packed weights "${b.label}" with A transposed or in batches: only A op(B) is done`,
    );
  }
  requireEpilogue(options);
  const { first, rows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  // The software form computes eight columns at a time, with one scale.
  if (first % 8 !== 0 || first + rows > b.rows) {
    throw new TypeError(
      `Cannot multiply as the rows of packed B must lie in "${b.label}" [${b.rows}, ${b.columns}] and begin at a multiple of 8: they are ${first} to ${
        first + rows
      }`,
    );
  }
  const kB = transposeB ? b.columns : rows;
  if (k !== kB) {
    throw new TypeError(
      `Cannot multiply "${a.label}" by "${b.label}" as inner lengths must be equal: A is [${m}, ${k}], op(B) is [${kB}, ${n}]`,
    );
  }
  requireResultShapes(options, shape);
  requireDistinct(options, [a]);
}

/**
 * C [m, n] = epilogue(alpha * A [m, k] op(B) [k, n]) with B packed; see `matmul`, which calls it.
 *
 * @returns C; the caller's to dispose.
 * @throws {TypeError} If shapes do not fit, or A is to be transposed, or products are batched.
 * @throws {RangeError} If pieces that fit the adapter cannot be made.
 */
export function packedMatmul(a: Tensor, b: PackedMatrix, options: MatmulOptions): Tensor {
  const { transposeB = false } = options;
  const { engine } = a;
  const onTextures = engine.adapterClass === "software";
  const [m, k] = [a.rows, a.columns];
  const { first: bFirst, rows: bRows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  const n = transposeB ? bRows : b.columns;
  requireShapes(a, b, options, [m, n, k]);
  const bParts = segments(bRows, { size: b.rowsPerWindow, offset: bFirst });
  const whole = [{ start: 0, length: transposeB ? k : n }];
  const [kParts, nParts] = transposeB ? [whole, bParts] : [bParts, whole];
  const out = options.out ?? engine.tensor(m, n, "matmul");
  const auxPitch = auxiliaryOf(options)?.pitch ?? 0;
  const aPerBinding = onTextures ? engine.maxTextureSide : rowsPerBuffer(a);
  const pieces = { m: { length: m, cut: aPerBinding }, n: nParts, k: kParts };
  for (const piece of piecesOf(pieces, options, out)) {
    const [aBound, aRow] = bindRows(a, piece.m.start, aPerBinding);
    const row = bFirst + (transposeB ? piece.n.start : piece.k.start);
    const window = b.windowOf(row);
    const tile = tileFor(matmulTiles(engine), piece.m.length, piece.n.length, 1);
    engine.dispatch(kernelFor(b, options, piece.epilogue, tile), {
      bindings: {
        a: aBound,
        words4: window.words,
        words2: window.words,
        words: window.words,
        scales: window.scales,
        c: piece.c,
        bias: options.bias ?? engine.nullInput,
        aux: piece.aux,
      },
      parameters: {
        m: piece.m.length,
        n: piece.n.length,
        k: piece.k.length,
        a_row: aRow,
        a_col4: piece.k.start / 4,
        a_pitch4: a.pitch / 4,
        b_row: row - window.row,
        b_pitch: b.words.pitch,
        s_row: window.scaleRow,
        s_pitch: b.scales?.pitch ?? 0,
        c_row: piece.cRow,
        c_col4: piece.n.start / 4,
        c_pitch4: out.pitch / 4,
        aux_pitch4: auxPitch / 4,
        n_first4: piece.n.start / 4,
        alpha: options.alpha ?? 1,
      },
      workgroups: onTextures
        ? [Math.ceil(piece.m.length / 16), Math.ceil(piece.n.length / 64)]
        : [Math.ceil(piece.n.length / tile.columns), Math.ceil(piece.m.length / tile.rows)],
    });
  }
  return out;
}

/** The window of A that holds `row`, and where the row lies in it. */
function bindRows(a: Tensor, row: number, perBinding: number): [Bindable, number] {
  const window = Math.floor(row / perBinding);
  if (a.engine.adapterClass === "software") return [a.engine.stage(a)[window]!, row % perBinding];
  return perBinding === Infinity ? [a, row] : [a.windows()[window]!, row % perBinding];
}
