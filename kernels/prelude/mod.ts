/**
 * WGSL that more than one kernel uses. A kernel lists what it needs as `preludes` of `defineKernel`; what one of these
 * files needs of others, or of the kernel, its first lines say.
 *
 * @module
 */

import conv3x3 from "./conv3x3.wgsl" with { type: "text" };
import epilogue from "./epilogue.wgsl" with { type: "text" };
import gelu from "./gelu.wgsl" with { type: "text" };
import grid from "./grid.wgsl" with { type: "text" };
import headNorm from "./head_norm.wgsl" with { type: "text" };
import matmul from "./matmul.wgsl" with { type: "text" };
import normBackward from "./norm_backward.wgsl" with { type: "text" };
import packed from "./packed.wgsl" with { type: "text" };
import packedCodes from "./packed_codes.wgsl" with { type: "text" };
import packedMatmul from "./packed_matmul.wgsl" with { type: "text" };
import rowEntries from "./row_entries.wgsl" with { type: "text" };
import tiles from "./tiles.wgsl" with { type: "text" };
import vec4 from "./vec4.wgsl" with { type: "text" };
import workgroupSum from "./workgroup_sum.wgsl" with { type: "text" };
import type { ShaderFile } from "../engine/shader.ts";

const preludeFile = (name: string, source: string): ShaderFile => ({ file: `prelude/${name}.wgsl`, source });

/** Rows in groups of four columns: sums, and which columns are padding. */
export const VEC4: ShaderFile = preludeFile("vec4", vec4);
/** Item of an invocation in a grid of more workgroups than one dimension holds. */
export const GRID: ShaderFile = preludeFile("grid", grid);
/** Sum over the lanes of a workgroup. */
export const WORKGROUP_SUM: ShaderFile = preludeFile("workgroup_sum", workgroupSum);
/** Entry points of kernels that reduce rows. */
export const ROW_ENTRIES: readonly ShaderFile[] = [preludeFile("row_entries", rowEntries), WORKGROUP_SUM];
/** Gradients of norms: bindings and parameters. */
export const NORM_BACKWARD: ShaderFile = preludeFile("norm_backward", normBackward);
/** Parameters of 3x3 convolutions. */
export const CONV3X3: ShaderFile = preludeFile("conv3x3", conv3x3);
/** Norms of heads' columns, with what that needs. */
export const HEAD_NORM: readonly ShaderFile[] = [preludeFile("head_norm", headNorm), VEC4];
/** Codes of packed weights, in all formats. */
export const PACKED: ShaderFile = preludeFile("packed", packed);
/** Reading packed weights, four at a time. */
export const PACKED_CODES: ShaderFile = preludeFile("packed_codes", packedCodes);
/** Panels of a tile in workgroup memory. */
export const TILES: ShaderFile = preludeFile("tiles", tiles);
/** Parameters of matrix products. */
export const MATMUL: ShaderFile = preludeFile("matmul", matmul);
/** Parameters and scales of matrix products with packed weights. */
export const PACKED_MATMUL: ShaderFile = preludeFile("packed_matmul", packedMatmul);
/** GELU by the tanh approximation, and its derivative. */
export const GELU: ShaderFile = preludeFile("gelu", gelu);
/** What matrix products do to their sums, with what that needs. */
export const EPILOGUE: readonly ShaderFile[] = [preludeFile("epilogue", epilogue), GELU, VEC4];
