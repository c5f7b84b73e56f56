// relu in place, and back: KEEP false: y = max(y, 0). KEEP true: y = 0 where the forward pass's
// result `kept` is 0, else unchanged.
//
// kept, y [count4 vec4s]. Accumulation rule: y is changed in place.

override KEEP: bool = false;

struct Parameters {
  count4: u32,
}

@group(0) @binding(0) var<storage, read> kept: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i >= p.count4) {
    return;
  }
  if (KEEP) {
    y[i] = select(vec4f(), y[i], kept[i] > vec4f());
  } else {
    y[i] = max(y[i], vec4f());
  }
}
