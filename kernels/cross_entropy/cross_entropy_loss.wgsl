// Loss of each row from its statistics, with label smoothing s over a vocabulary of V:
// loss = weight * ((1 - s) * (log_sum - target) + s * (log_sum - sum of x / V)).
//
// statistics [rows, 4]; weights, losses [1, rows]. Accumulation rule: overwritten.
// Large logits cancel before the logarithm, which is small, is added.

struct Parameters {
  rows: u32,
  pitch: u32, // of the losses
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
  if (row >= p.pitch) {
    return;
  }
  if (row >= p.rows) {
    losses[row] = 0.0; // padding
    return;
  }
  let s = statistics[row];
  let log_sum = log(s.y);
  let hard = (s.x - s.w) + log_sum;
  let soft = (s.x - s.z / f32(p.vocabulary)) + log_sum;
  losses[row] = weights[row] * ((1.0 - p.smoothing) * hard + p.smoothing * soft);
}
