/**
 * A small kernel for tests of the engine.
 *
 * @module
 */

import type { Engine } from "./engine.ts";
import { defineKernel } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";

const ADD_ONE = `
struct Parameters {
  count4: u32,
}
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < p.count4) {
    y[id.x] = x[id.x] + 1.0;
  }
}
`;

/** y = x + 1. */
export const ADD_ONE_KERNEL = {
  name: "add_one",
  file: "engine/add_one.wgsl",
  source: ADD_ONE,
  bindings: ["x", "y"],
  parameters: ["count4"],
} as const;

/** As defined. */
export const addOneKernel = defineKernel(ADD_ONE_KERNEL);

/** Records y = x + 1. */
export function addOne(engine: Engine, x: Tensor, y: Tensor): void {
  const count4 = x.bytes / 16;
  engine.dispatch(addOneKernel, {
    bindings: { x, y },
    parameters: { count4 },
    workgroups: [Math.ceil(count4 / 64)],
  });
}
