// LoRA dropout: out = x * keep / (1 - rate), keep drawn by a counter-based generator.
//
// x, out [slots * length, columns]: head-major, slot z holds head heads[z] of the layer; or one
// slot with all columns. The mask is a function of (key, row of the sequence batch, column of the
// layer) alone, so it does not depend on the device, on the other heads or on the order of work.
// The same kernel is its own backward pass. Accumulation rule: overwritten.

struct Parameters {
  length: u32,     // rows of a slot
  pitch4: u32,     // columns of a slot / 4
  threshold: u32,  // dropped if the draw is below: rate * 2^32
  key0: u32,
  key1: u32,
  first_row: u32,  // of the batch that the rows of a slot are part of
  scale: f32,      // 1 / (1 - rate)
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> heads: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

// pcg4d: Jarzynski and Olano, Hash Functions for GPU Rendering, JCGT 9(3), 2020.
fn pcg4d(seed: vec4u) -> vec4u {
  var v = seed * 1664525u + 1013904223u;
  v.x += v.y * v.w;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v.w += v.y * v.z;
  v ^= v >> vec4u(16u);
  v.x += v.y * v.w;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v.w += v.y * v.z;
  return v;
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let row = id.y;
  let slot = id.z;
  if (i >= p.pitch4 || row >= p.length) {
    return;
  }
  let column4 = heads[slot] * p.pitch4 + i;
  let draw = pcg4d(vec4u(p.first_row + row, column4, p.key0, p.key1));
  let at = (slot * p.length + row) * p.pitch4 + i;
  out[at] = select(x[at] * p.scale, vec4f(), draw < vec4u(p.threshold));
}
