// y = (x - mean) * rstd * gamma + beta, row by row.
//
// x, y [rows, columns]; gamma, beta [1, columns]; statistics [rows, 2] = (mean, rstd), kept for
// the backward pass. Accumulation rule: outputs are overwritten.
//
// LANES invocations share a row: 1 on software adapters, where barriers are dear, more on GPUs.
// Mean first, then the variance around it: one pass over squares would cancel.

override LANES: u32 = 1;
override ROWS: u32 = 8;

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

var<workgroup> scratch: array<f32, LANES * ROWS>;

fn row_sum(v: vec4f, lane: u32, slot: u32) -> f32 {
  let mine = (v.x + v.y) + (v.z + v.w);
  if (LANES == 1u) {
    return mine;
  }
  let at = slot * LANES + lane;
  scratch[at] = mine;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      scratch[at] += scratch[at + half];
    }
    workgroupBarrier();
  }
  let sum = scratch[slot * LANES];
  workgroupBarrier();
  return sum;
}

// 1 for real columns, 0 for padding.
fn inside(i: u32) -> vec4f {
  return select(vec4f(), vec4f(1.0), vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.columns));
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let slot = local.y;
  let row = workgroup.x * ROWS + slot;
  let base = min(row, p.rows - 1u) * p.pitch4;
  let scale = 1.0 / f32(p.columns);

  var sum = vec4f();
  for (var i = lane; i < p.pitch4; i += LANES) {
    sum += x[base + i];
  }
  let mean = row_sum(sum, lane, slot) * scale;

  var squares = vec4f();
  for (var i = lane; i < p.pitch4; i += LANES) {
    let d = (x[base + i] - mean) * inside(i);
    squares += d * d;
  }
  let rstd = inverseSqrt(row_sum(squares, lane, slot) * scale + p.epsilon);

  if (row < p.rows) {
    for (var i = lane; i < p.pitch4; i += LANES) {
      y[base + i] = (x[base + i] - mean) * rstd * gamma[i] + beta[i];
    }
    if (lane == 0u) {
      statistics[row] = vec4f(mean, rstd, 0.0, 0.0);
    }
  }
}
