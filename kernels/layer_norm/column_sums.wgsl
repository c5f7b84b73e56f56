// Sums down the rows: bias gradients, and layer norm's dgamma and dbeta in one go.
//
// plain[c] += sum over rows of dy[row, c]
// scaled[c] += sum over rows of dy[row, c] * (x[row, c] - mean[row]) * rstd[row], if NORMALISED
//
// x, dy [rows, columns]; statistics [rows, 2]; plain, scaled [1, columns].
// Accumulation rule: added to.
//
// Two entry points: `rows` takes four columns per invocation, for software adapters; `workgroups`
// shares four columns among 64, for GPUs.

override NORMALISED: bool = false;

struct Parameters {
  rows: u32,
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> plain: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> scaled: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

alias Summed = mat2x4f;

// Sums of dy and of dy * xhat over every lanes-th row.
fn sums_of(column: u32, lane: u32, lanes: u32) -> mat2x4f {
  var sums = mat2x4f();
  for (var row = lane; row < p.rows; row += lanes) {
    let d = dy[row * p.pitch4 + column];
    sums[0] += d;
    if (NORMALISED) {
      let s = statistics[row];
      sums[1] += d * (x[row * p.pitch4 + column] - s.x) * s.y;
    }
  }
  return sums;
}

fn write(column: u32, sums: mat2x4f) {
  plain[column] += sums[0];
  if (NORMALISED) {
    scaled[column] += sums[1];
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.pitch4) {
    return;
  }
  write(id.x, sums_of(id.x, 0u, 1u));
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let sums = workgroup_sum(sums_of(workgroup.x, lane, LANES), lane);
  if (lane == 0u) {
    write(workgroup.x, sums);
  }
}
