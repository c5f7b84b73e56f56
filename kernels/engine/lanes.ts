/**
 * How invocations are laid out: kernels that reduce rows, with one entry point per adapter class, and grids of more
 * workgroups than one dimension holds.
 *
 * @module
 */

import type { AdapterClass } from "./adapter.ts";
import { defineKernel, type Kernel, type KernelDefinition } from "./kernel.ts";

/**
 * Rows in a workgroup. A software adapter runs one row per invocation, eight to a SIMD group, with
 * no barrier (layer norm 512 x 768: 0.9 ms against 4.5 ms with a tree); a GPU shares a row among 64.
 */
export const ROWS_PER_WORKGROUP: Readonly<Record<AdapterClass, number>> = { software: 8, hardware: 1 };

/** Declares a kernel whose source has the entry points `rows` (software adapters) and `workgroups` (GPUs). */
export function defineRowKernel<const P extends string, const B extends string>(
  kernel: KernelDefinition<P, B>,
): Record<AdapterClass, Kernel<P, B>> {
  return {
    software: defineKernel({ ...kernel, name: `${kernel.name}_rows`, entryPoint: "rows" }),
    hardware: defineKernel({ ...kernel, name: `${kernel.name}_workgroups`, entryPoint: "workgroups" }),
  };
}

/** Workgroups in a row of a grid; `prelude/grid.wgsl` has the same number. */
const GRID_WIDTH = 32_768;

/**
 * Workgroups in x and y for so many items; a kernel finds an invocation's item by `grid_index` of `prelude/grid.wgsl`.
 *
 * @param items Number of items.
 * @param perWorkgroup Items of a workgroup.
 */
export function gridOf(items: number, perWorkgroup: number): [number, number] {
  const groups = Math.ceil(items / perWorkgroup);
  return [Math.min(groups, GRID_WIDTH), Math.ceil(groups / GRID_WIDTH)];
}
