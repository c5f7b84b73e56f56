/**
 * Matrix products with packed weights.
 *
 * @module
 */

import textureSource from "./packed_matmul_texture.wgsl" with { type: "text" };
import tiledSource from "./packed_matmul_tiled.wgsl" with { type: "text" };
import { defineKernel, type Kernel } from "../engine/kernel.ts";
import type { Tensor } from "../engine/tensor.ts";
import type { MatmulOptions } from "../matmul/matmul.ts";
import { bindResult, FLAGS, requireShape, rowsPerBuffer, segments } from "../matmul/epilogue.ts";
import { type MatmulTile, tileFor } from "../matmul/tiles.ts";
import { PACKED_FORMATS } from "./formats.ts";
import type { PackedMatrix } from "./packed_matrix.ts";

const PARAMETERS = [
  ["m", "u32"],
  ["n", "u32"],
  ["k", "u32"],
  ["a_row", "u32"],
  ["a_col4", "u32"],
  ["a_pitch4", "u32"],
  ["b_row", "u32"],
  ["b_pitch", "u32"],
  ["s_row", "u32"],
  ["s_pitch", "u32"],
  ["c_row", "u32"],
  ["c_col4", "u32"],
  ["c_pitch4", "u32"],
  ["aux_pitch4", "u32"],
  ["n_first4", "u32"],
  ["alpha", "f32"],
] as const;

/** Kernels made so far, by form, format, transposition and epilogue: a few of the many are used. */
const kernels = new Map<string, Kernel<typeof PARAMETERS[number][0]>>();

function kernelFor(b: PackedMatrix, transposeB: boolean, epilogue: number, tile: MatmulTile) {
  const { format, groupsAlong, engine: { adapterClass: form } } = b;
  const which = `${format}_${groupsAlong}_${transposeB ? "t" : "n"}_${epilogue}`;
  const name = `packed_matmul_${
    form === "software" ? "texture" : `tiled_${tile.rows}x${tile.columns}`
  }_${which}`;
  let kernel = kernels.get(name);
  if (kernel === undefined) {
    const { code, group } = PACKED_FORMATS[format];
    kernel = defineKernel({
      name,
      source: form === "software" ? textureSource : tiledSource,
      bindings: form === "software"
        ? ["texture", "read", "read", "read", "read", "write", "read", "write"]
        : ["read", "read", "read", "write", "read", "write"],
      parameters: PARAMETERS,
      constants: {
        TRANSPOSE_B: Number(transposeB),
        EPILOGUE: epilogue,
        FORMAT: code,
        GROUP: group || 1,
        ALONG_ROWS: Number(groupsAlong === "rows"),
        ...(form === "hardware" ? { TILE_M4: tile.rows / 4, TILE_N4: tile.columns / 4 } : {}),
      },
    });
    kernels.set(name, kernel);
  }
  return kernel;
}

function requireShapes(
  a: Tensor,
  b: PackedMatrix,
  options: MatmulOptions,
  [m, n, k]: readonly [number, number, number],
): void {
  const { transposeA, transposeB = false, batch, out, bias, geluInput, residual, geluGradOf } = options;
  if (transposeA === true || batch !== undefined) {
    throw new TypeError(
      `Cannot multiply by packed weights "${b.label}" with A transposed or in batches: only A op(B) is done`,
    );
  }
  const aux = [geluInput, residual, geluGradOf].filter((t) => t !== undefined);
  if (aux.length > 1) {
    throw new TypeError(
      `Cannot multiply as at most one of geluInput, residual and geluGradOf may be given: ${aux.length} are`,
    );
  }
  if (out === undefined && options.accumulate) {
    throw new TypeError(`Cannot multiply as an accumulated product needs "out": it is missing`);
  }
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
  requireShape("out", out, m, n);
  requireShape("bias", bias, 1, n);
  requireShape("geluInput", geluInput, m, n);
  requireShape("residual", residual, m, n);
  requireShape("geluGradOf", geluGradOf, m, n);
  for (const written of [out, ...aux]) {
    if (written !== undefined && [a, bias, out, ...aux].filter((t) => t === written).length > 1) {
      throw new TypeError(
        `Cannot multiply as "out" and tensors of epilogues must not be used twice: "${written.label}" is`,
      );
    }
  }
}

/**
 * C [m, n] = epilogue(alpha * A [m, k] op(B) [k, n]) with B packed; see `matmul`, which calls it.
 *
 * @returns C; the caller's to dispose.
 * @throws {TypeError} If shapes do not fit, or A is to be transposed, or products are batched.
 */
export function packedMatmul(a: Tensor, b: PackedMatrix, options: MatmulOptions): Tensor {
  const { transposeB = false } = options;
  const { engine } = a;
  const onTextures = engine.adapterClass === "software";
  const [m, k] = [a.rows, a.columns];
  const { first: bFirst, rows: bRows } = options.rowsOfB ?? { first: 0, rows: b.rows };
  const n = transposeB ? bRows : b.columns;
  requireShapes(a, b, options, [m, n, k]);
  const aux = options.geluInput ?? options.residual ?? options.geluGradOf;
  const flags = (options.bias ? FLAGS.bias : 0) | (options.geluInput ? FLAGS.gelu : 0) |
    (options.residual ? FLAGS.residual : 0) | (options.geluGradOf ? FLAGS.geluGrad : 0);
  const bParts = segments(bRows, { size: b.rowsPerWindow, offset: bFirst });
  const whole = [{ start: 0, length: transposeB ? k : n }];
  const [kParts, nParts] = transposeB ? [whole, bParts] : [bParts, whole];
  const needsTwoSums = options.accumulate === true && (flags & (FLAGS.gelu | FLAGS.geluGrad)) !== 0;
  if (kParts.length > 1 && needsTwoSums) {
    throw new RangeError(
      `Cannot multiply "${a.label}" by "${b.label}" and add gelu to a result as the inner length must fit one binding of the adapter: [${a.rows}, ${a.columns}] by [${b.rows}, ${b.columns}]`,
    );
  }
  const out = options.out ?? engine.tensor(m, n, "matmul");
  const aPerBinding = onTextures ? engine.maxTextureSide : rowsPerBuffer(a);
  for (const mPart of segments(m, { size: rowsPerBuffer(out) }, { size: aPerBinding })) {
    const [c, cRow] = bindResult(out, mPart);
    const auxBound = aux === undefined ? engine.nullOutput : bindResult(aux, mPart)[0];
    const aWindow = Math.floor(mPart.start / aPerBinding);
    const aBound = onTextures
      ? engine.stage(a)[aWindow]!
      : aPerBinding === Infinity
      ? a
      : a.windows()[aWindow]!;
    for (const nPart of nParts) {
      for (const kPart of kParts) {
        const first = kPart.start === 0;
        const row = bFirst + (transposeB ? nPart.start : kPart.start);
        const window = b.windowOf(row);
        // The first part begins the sum, the last one has the epilogue.
        const epilogue = (kPart === kParts.at(-1) ? flags : 0) | (first ? 0 : FLAGS.partial) |
          (first && options.accumulate ? FLAGS.accumulate : 0);
        const tile = tileFor(engine.matmulTiles, mPart.length, nPart.length, 1);
        engine.dispatch(kernelFor(b, transposeB, epilogue, tile), {
          bindings: [
            aBound,
            // The software form reads words in groups of four, of two and alone.
            ...(onTextures ? [window.words, window.words, window.words] : [window.words]),
            window.scales,
            c,
            options.bias ?? engine.nullInput,
            auxBound,
          ],
          parameters: {
            m: mPart.length,
            n: nPart.length,
            k: kPart.length,
            a_row: aPerBinding === Infinity ? mPart.start : mPart.start % aPerBinding,
            a_col4: kPart.start / 4,
            a_pitch4: a.pitch / 4,
            b_row: row - window.row,
            b_pitch: b.words.pitch,
            s_row: window.scaleRow,
            s_pitch: b.scales?.pitch ?? 0,
            c_row: cRow,
            c_col4: nPart.start / 4,
            c_pitch4: out.pitch / 4,
            aux_pitch4: (aux?.pitch ?? 0) / 4,
            n_first4: nPart.start / 4,
            alpha: options.alpha ?? 1,
          },
          workgroups: onTextures
            ? [Math.ceil(mPart.length / 16), Math.ceil(nPart.length / 64)]
            : [Math.ceil(nPart.length / tile.columns), Math.ceil(mPart.length / tile.rows)],
        });
      }
    }
  }
  return out;
}
