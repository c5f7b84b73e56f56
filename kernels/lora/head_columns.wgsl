// Moves the columns of some heads between a wide matrix and head-major blocks.
//
// wide [length, pitch]: head h's columns start at first + h * head_size.
// blocks [slots * length, head_size]: slot z holds head heads[z]; NO_HEAD leaves a slot out.
// Gather (SCATTER false): blocks = wide, overwritten. Scatter: wide += blocks.

override SCATTER: bool = false;
const NO_HEAD = 0xffffffffu;

struct Parameters {
  length: u32,
  head_size4: u32,
  first4: u32,
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read_write> wide: array<vec4f>;
@group(0) @binding(1) var<storage, read> heads: array<u32>;
@group(0) @binding(2) var<storage, read_write> blocks: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let row = id.y;
  let slot = id.z;
  if (i >= p.head_size4 || row >= p.length || heads[slot] == NO_HEAD) {
    return;
  }
  let outer = row * p.pitch4 + p.first4 + heads[slot] * p.head_size4 + i;
  let inner = (slot * p.length + row) * p.head_size4 + i;
  if (SCATTER) {
    wide[outer] += blocks[inner];
  } else {
    blocks[inner] = wide[outer];
  }
}
