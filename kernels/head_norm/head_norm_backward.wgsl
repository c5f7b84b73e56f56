// Gradient of the RMS norm of heads' columns, in place, with g = dy * gain:
// dx = rstd * (g - x * rstd^2 * mean(g * x)).
//
// x, dy [rows, slots * head_size] and gains as in head_norm.wgsl; columns of heads that are not normalised
// stay. Accumulation rule: dy is overwritten by dx.

@group(0) @binding(2) var<storage, read_write> dy: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = grid_index(workgroup, lane, 64u);
  if (index >= p.count) {
    return;
  }
  let head = index % p.heads;
  let base = (index / p.heads * p.slots + head) * p.size4;
  let gain = gain_of(head);
  let rstd = rstd_of(base);
  var products = vec4f();
  for (var i = 0u; i < p.size4; i++) {
    products += dy[base + i] * gains[gain + i] * x[base + i];
  }
  let slope = rstd * rstd * total(products) / f32(4u * p.size4);
  for (var i = 0u; i < p.size4; i++) {
    dy[base + i] = rstd * (dy[base + i] * gains[gain + i] - x[base + i] * slope);
  }
}
