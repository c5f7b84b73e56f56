// Loss of each row from its statistics, with label smoothing s over a vocabulary of V:
// loss = weight * ((1 - s) * (log_sum - target) + s * (log_sum - sum of x / V)).
//
// statistics [rows, 4]; weights, losses [1, rows]. Accumulation rule: overwritten.

struct Parameters {
  rows: u32,
  vocabulary: u32,
  smoothing: f32,
}

@group(0) @binding(0) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= p.rows) {
    return;
  }
  let s = statistics[row];
  let log_sum = s.x + log(s.y);
  let hard = log_sum - s.w;
  let soft = log_sum - s.z / f32(p.vocabulary);
  losses[row] = weights[row] * ((1.0 - p.smoothing) * hard + p.smoothing * soft);
}
