// dx of layer norm, row by row, with g = dy * gamma and xhat = (x - mean) * rstd:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)).
//
// x, dy, dx [rows, columns]; gamma [1, columns]; statistics [rows, 2] of the forward pass.
// Accumulation rule: dx is overwritten, unless accumulate is 1.

override LANES: u32 = 1;
override ROWS: u32 = 8;

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> scratch: array<vec2f, LANES * ROWS>;

fn row_sums(a: vec4f, b: vec4f, lane: u32, slot: u32) -> vec2f {
  let mine = vec2f((a.x + a.y) + (a.z + a.w), (b.x + b.y) + (b.z + b.w));
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
  return scratch[slot * LANES];
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let slot = local.y;
  let row = workgroup.x * ROWS + slot;
  let safe_row = min(row, p.rows - 1u);
  let base = safe_row * p.pitch4;
  let mean = statistics[safe_row].x;
  let rstd = statistics[safe_row].y;

  var sum_g = vec4f();
  var sum_gx = vec4f();
  for (var i = lane; i < p.pitch4; i += LANES) {
    let g = dy[base + i] * gamma[i];
    sum_g += g;
    sum_gx += g * (x[base + i] - mean);
  }
  let sums = row_sums(sum_g, sum_gx * rstd, lane, slot) / f32(p.columns);

  if (row < p.rows) {
    for (var i = lane; i < p.pitch4; i += LANES) {
      let inside = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.columns);
      let g = dy[base + i] * gamma[i];
      var v = select(vec4f(), rstd * (g - sums.x - (x[base + i] - mean) * rstd * sums.y), inside);
      if (p.accumulate == 1u) {
        v += dx[base + i];
      }
      dx[base + i] = v;
    }
  }
}
