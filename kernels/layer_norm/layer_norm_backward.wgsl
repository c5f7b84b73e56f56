// dx of layer norm, row by row, with g = dy * gamma and xhat = (x - mean) * rstd:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)).
//
// x, dy, dx [rows, columns]; gamma [1, columns]; statistics [rows, 2] of the forward pass.
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

alias Summed = vec2f;

// Sums of g and of g * xhat.
fn sums_of(row: u32, lane: u32, lanes: u32) -> vec2f {
  let base = row * p.pitch4;
  let mean = statistics[row].x;
  var g_sum = vec4f();
  var gx_sum = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    let g = dy[base + i] * gamma[i];
    g_sum += g;
    gx_sum += g * (x[base + i] - mean);
  }
  let gx = gx_sum * statistics[row].y;
  return vec2f(total(g_sum), total(gx));
}

fn write(row: u32, sums: vec2f, lane: u32, lanes: u32) {
  let base = row * p.pitch4;
  let mean = statistics[row].x;
  let rstd = statistics[row].y;
  let means = sums / f32(p.columns);
  for (var i = lane; i < p.pitch4; i += lanes) {
    let g = dy[base + i] * gamma[i];
    var v = select(vec4f(), rstd * (g - means.x - (x[base + i] - mean) * rstd * means.y), inside(i, p.columns));
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
  write(id.x, sums_of(id.x, 0u, 1u), 0u, 1u);
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let sums = workgroup_sum(sums_of(workgroup.x, lane, LANES), lane);
  write(workgroup.x, sums, lane, LANES);
}
