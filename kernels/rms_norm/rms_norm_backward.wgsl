// dx of RMS norm, row by row, with g = dy * gamma: dx = rstd * (g - x * rstd^2 * mean(g * x)).
//
// x, dy, dx [rows, columns]; gamma [1, columns]; statistics [rows, 1] of the forward pass.
// Accumulation rule: dx is overwritten, unless ACCUMULATE is set.
//
// Two entry points: `rows` takes one row per invocation, for software adapters; `workgroups` shares
// a row among 64, for GPUs.

override ACCUMULATE: bool = false;

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

alias Summed = f32;

// Sum of g * x; padding is zero and adds nothing.
fn products_of(row: u32, lane: u32, lanes: u32) -> f32 {
  var products = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    products += dy[row * p.pitch4 + i] * gamma[i] * x[row * p.pitch4 + i];
  }
  return total(products);
}

fn write(row: u32, products: f32, lane: u32, lanes: u32) {
  let base = row * p.pitch4;
  let rstd = statistics[row].x;
  let slope = rstd * rstd * products / f32(p.columns);
  for (var i = lane; i < p.pitch4; i += lanes) {
    var v = rstd * (dy[base + i] * gamma[i] - x[base + i] * slope);
    if (ACCUMULATE) {
      v += dx[base + i];
    }
    dx[base + i] = v;
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.rows) {
    return;
  }
  write(id.x, products_of(id.x, 0u, 1u), 0u, 1u);
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let products = workgroup_sum(products_of(workgroup.x, lane, LANES), lane);
  write(workgroup.x, products, lane, LANES);
}
