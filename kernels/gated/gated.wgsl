// The gate of a gated feed-forward network: y = f(gate) * up, where f is silu, g / (1 + exp(-g)), or with
// GELU the tanh approximation of gelu.
//
// gate, up, y [count4 vec4s]. Accumulation rule: y is overwritten.

override GELU: bool = false;

struct Parameters {
  count4: u32,
}

@group(0) @binding(0) var<storage, read> gate: array<vec4f>;
@group(0) @binding(1) var<storage, read> up: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i >= p.count4) {
    return;
  }
  let g = gate[i];
  if (GELU) {
    y[i] = gelu(g) * up[i];
  } else {
    // Bounded so that exp stays finite; silu(-80) is zero in f32.
    y[i] = g / (1.0 + exp(min(-g, vec4f(80.0)))) * up[i];
  }
}
