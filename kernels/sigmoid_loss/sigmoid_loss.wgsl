// p = sigmoid(z + offset), and the gradient of the weighted squared error (p - target)^2 by z.
//
// z, offset, target, weight, p, dz: [rows, columns] of one shape, as count4 vec4s.
// dz = scale * weight * 2 * (p - target) * p * (1 - p); with scale = 1 / sum of weights the loss is
// the weighted mean. The padding of weight is zero, and so that of dz. Accumulation rule: overwritten.

struct Parameters {
  count4: u32,
  columns: u32,
  pitch4: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> z: array<vec4f>;
@group(0) @binding(1) var<storage, read> offset: array<vec4f>;
@group(0) @binding(2) var<storage, read> labels: array<vec4f>;
@group(0) @binding(3) var<storage, read> weight: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> p: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dz: array<vec4f>;
@group(1) @binding(0) var<uniform> q: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i >= q.count4) {
    return;
  }
  // Clamped so that exp stays finite: beyond, p is 0 or 1 to all bits that matter.
  let s = 1.0 / (1.0 + exp(-clamp(z[i] + offset[i], vec4f(-40.0), vec4f(40.0))));
  p[i] = select(vec4f(), s, inside(i % q.pitch4, q.columns));
  dz[i] = q.scale * weight[i] * 2.0 * (s - labels[i]) * s * (1.0 - s);
}
