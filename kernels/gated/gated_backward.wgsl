// Gradients of y = f(gate) * up: d_gate = dy * up * f'(gate), d_up = dy * f(gate). For silu, with
// s = 1 / (1 + exp(-gate)), f' is s * (1 + gate * (1 - s)); with GELU, f is the tanh approximation of gelu.
//
// gate, up, dy, d_gate, d_up [count4 vec4s]. Accumulation rule: outputs are overwritten.

override GELU: bool = false;

struct Parameters {
  count4: u32,
}

@group(0) @binding(0) var<storage, read> gate: array<vec4f>;
@group(0) @binding(1) var<storage, read> up: array<vec4f>;
@group(0) @binding(2) var<storage, read> dy: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> d_gate: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> d_up: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i >= p.count4) {
    return;
  }
  let g = gate[i];
  if (GELU) {
    d_gate[i] = dy[i] * up[i] * gelu_grad(g);
    d_up[i] = dy[i] * gelu(g);
    return;
  }
  let s = 1.0 / (1.0 + exp(min(-g, vec4f(80.0))));
  d_gate[i] = dy[i] * up[i] * s * (1.0 + g * (1.0 - s));
  d_up[i] = dy[i] * g * s;
}
