// AdamW with decoupled weight decay, per segment of the parameters.
//
// parameters, gradients, m, v [1, segments * segment]; control [segments, 4] = (active,
// 1 - beta1^t, 1 - beta2^t, -) with t the segment's own number of updates; clip [1, 4]: clip.x
// scales the gradient. A segment whose active is 0 keeps parameters and moments as they are.
// Accumulation rule: parameters, m and v are updated in place.

struct Parameters {
  count4: u32,
  segment4: u32,
  first4: u32, // where this window of the tensor starts
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  decay: f32,
}

@group(0) @binding(0) var<storage, read_write> parameters: array<vec4f>;
@group(0) @binding(1) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> control: array<vec4f>;
@group(0) @binding(5) var<storage, read> clip: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i >= p.count4) {
    return;
  }
  let c = control[(p.first4 + i) / p.segment4];
  if (c.x == 0.0) {
    return;
  }
  let g = gradients[i] * clip[0].x;
  let m_new = p.beta1 * m[i] + (1.0 - p.beta1) * g;
  let v_new = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
  m[i] = m_new;
  v[i] = v_new;
  let w = parameters[i];
  parameters[i] = w - p.rate * (m_new / c.y / (sqrt(v_new / c.z) + p.epsilon) + p.decay * w);
}
