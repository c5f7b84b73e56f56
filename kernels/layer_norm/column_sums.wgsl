// Sums down the rows: bias gradients, and layer norm's dgamma and dbeta in one go.
//
// plain[c] (+)= sum over rows of dy[row, c]
// scaled[c] (+)= sum over rows of dy[row, c] * (x[row, c] - mean[row]) * rstd[row], if normalised is 1
//
// x, dy [rows, columns]; statistics [rows, 2]; plain, scaled [1, columns].
// Accumulation rule: overwritten, unless accumulate is 1. LANES invocations share a column.

override LANES: u32 = 1;
override COLUMNS: u32 = 8;

struct Parameters {
  rows: u32,
  pitch4: u32,
  normalised: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> plain: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> scaled: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> scratch: array<mat2x4f, LANES * COLUMNS>;

@compute @workgroup_size(COLUMNS, LANES)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.y;
  let column = workgroup.x * COLUMNS + local.x;
  let safe_column = min(column, p.pitch4 - 1u);

  var sums = mat2x4f();
  for (var row = lane; row < p.rows; row += LANES) {
    let d = dy[row * p.pitch4 + safe_column];
    sums[0] += d;
    if (p.normalised == 1u) {
      let s = statistics[row];
      sums[1] += d * (x[row * p.pitch4 + safe_column] - s.x) * s.y;
    }
  }
  if (LANES > 1u) {
    let at = lane * COLUMNS + local.x;
    scratch[at] = sums;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      if (lane < half) {
        scratch[at] += scratch[at + half * COLUMNS];
      }
      workgroupBarrier();
    }
    sums = scratch[local.x];
  }
  if (lane == 0u && column < p.pitch4) {
    if (p.accumulate == 1u) {
      sums[0] += plain[column];
    }
    plain[column] = sums[0];
    if (p.normalised == 1u) {
      if (p.accumulate == 1u) {
        sums[1] += scaled[column];
      }
      scaled[column] = sums[1];
    }
  }
}
