// y += alpha * x, element by element.
//
// x, y [count4 vec4s]. Accumulation rule: y is added to.

struct Parameters {
  count4: u32,
  alpha: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i < p.count4) {
    y[i] += p.alpha * x[i];
  }
}
