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
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (workgroup.y * 32768u + workgroup.x) * 64u + local.x;
  if (i < p.count4) {
    y[i] += p.alpha * x[i];
  }
}
