// Copies rows of a buffer to a storage texture: texel (c, row + r) = source[r, 4c .. 4c+3].
//
// source  [rows, 4 * width] f32
// target  [.., width] texels

struct Parameters {
  width: u32,
  rows: u32,
  row: u32,
}

@group(0) @binding(0) var<storage, read> source: array<vec4f>;
@group(0) @binding(1) var target_texture: texture_storage_2d<rgba32float, write>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let column = id.x;
  let r = id.y;
  if (column >= p.width || r >= p.rows) {
    return;
  }
  textureStore(target_texture, vec2u(column, p.row + r), source[r * p.width + column]);
}
