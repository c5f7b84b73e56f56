// RMS norm of heads' columns, head by head: y = x * rstd * gain with rstd = 1 / sqrt(mean(x^2) + epsilon).
//
// x, y [rows, slots * head_size]: heads side by side. The first `queries` heads have the gain gains[0 ..
// head_size), those up to `heads` the gain gains[head_size ..); the others are copied. Accumulation rule:
// y is overwritten.

@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = grid_index(workgroup, lane, 64u);
  if (index >= p.count) {
    return;
  }
  let head = index % p.slots;
  let base = index * p.size4;
  if (head >= p.heads) {
    for (var i = 0u; i < p.size4; i++) {
      y[base + i] = x[base + i];
    }
    return;
  }
  let rstd = rstd_of(base);
  let gain = gain_of(head);
  for (var i = 0u; i < p.size4; i++) {
    y[base + i] = x[base + i] * rstd * gains[gain + i];
  }
}
