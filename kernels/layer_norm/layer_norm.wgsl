// y = (x - mean) * rstd * gamma + beta, row by row.
//
// x, y [rows, columns]; gamma, beta [1, columns]; statistics [rows, 2] = (mean, rstd), kept for
// the backward pass. Accumulation rule: outputs are overwritten.
//
// Mean first, then the variance around it: one pass over squares would cancel.
// Two entry points: `rows` takes one row per invocation, for software adapters, where barriers are
// dear; `workgroups` shares a row among 64, for GPUs, where neighbours should read neighbours.

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(2) var<storage, read> beta: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

alias Summed = f32;

fn sum_of(base: u32, lane: u32, lanes: u32) -> f32 {
  var sum = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    sum += x[base + i];
  }
  return total(sum);
}

fn squares_of(base: u32, mean: f32, lane: u32, lanes: u32) -> f32 {
  var squares = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    let d = select(vec4f(), x[base + i] - mean, inside(i, p.columns));
    squares += d * d;
  }
  return total(squares);
}

fn write(row: u32, mean: f32, rstd: f32, lane: u32, lanes: u32) {
  let base = row * p.pitch4;
  for (var i = lane; i < p.pitch4; i += lanes) {
    y[base + i] = (x[base + i] - mean) * rstd * gamma[i] + beta[i];
  }
  if (lane == 0u) {
    statistics[row] = vec4f(mean, rstd, 0.0, 0.0);
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= p.rows) {
    return;
  }
  let scale = 1.0 / f32(p.columns);
  let mean = sum_of(row * p.pitch4, 0u, 1u) * scale;
  let rstd = inverseSqrt(squares_of(row * p.pitch4, mean, 0u, 1u) * scale + p.epsilon);
  write(row, mean, rstd, 0u, 1u);
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = workgroup.x;
  let scale = 1.0 / f32(p.columns);
  let mean = workgroup_sum(sum_of(row * p.pitch4, lane, LANES), lane) * scale;
  let squares = workgroup_sum(squares_of(row * p.pitch4, mean, lane, LANES), lane);
  write(row, mean, inverseSqrt(squares * scale + p.epsilon), lane, LANES);
}
