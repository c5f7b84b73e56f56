// Gradient of the RMS norm of heads' columns, in place, with g = dy * gain:
// dx = rstd * (g - x * rstd^2 * mean(g * x)).
//
// x, dy [rows, slots * head_size] and gains as in head_norm.wgsl; columns of heads that are not normalised
// stay. Accumulation rule: dy is overwritten by dx.

struct Parameters {
  count: u32, // rows * heads
  slots: u32,
  queries: u32,
  heads: u32,
  size4: u32, // head_size, in vec4s
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gains: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> dy: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = grid_index(workgroup, lane, 64u);
  if (index >= p.count) {
    return;
  }
  let head = index % p.heads;
  let base = (index / p.heads * p.slots + head) * p.size4;
  let gain = select(0u, p.size4, head >= p.queries);
  var squares = vec4f();
  var products = vec4f();
  for (var i = 0u; i < p.size4; i++) {
    let v = x[base + i];
    squares += v * v;
    products += dy[base + i] * gains[gain + i] * v;
  }
  let size = f32(4u * p.size4);
  let rstd = inverseSqrt(total(squares) / size + p.epsilon);
  let slope = rstd * rstd * total(products) / size;
  for (var i = 0u; i < p.size4; i++) {
    dy[base + i] = rstd * (dy[base + i] * gains[gain + i] - x[base + i] * slope);
  }
}
