// Rotary position embedding of some heads' columns, in place. Column i of a head's first half and
// column i of its second half are the coordinates of a point that is turned by the angle (t, i):
//
// (u, v) -> (u * cos - s * v * sin, v * cos + s * u * sin), with s = SIGN: 1 forward, -1 back.
//
// x [rows, columns], some rows from row_first on of a larger matrix; the first heads * head_size columns
// are heads to be turned; row r of the whole is at position first + r % length. table [positions, head_size]: cosines of the head_size / 2
// angles, then their sines. Accumulation rule: overwritten in place.

override SIGN: f32 = 1.0;

struct Parameters {
  rows: u32,
  row_first: u32,
  length: u32,
  first: u32,
  heads: u32,
  half4: u32, // head_size / 2, in vec4s
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> table: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  if (id.x >= p.heads * p.half4 || row >= p.rows) {
    return;
  }
  let head = id.x / p.half4;
  let i = id.x % p.half4;
  let angles = (p.first + (p.row_first + row) % p.length) * 2u * p.half4 + i;
  let cosine = table[angles];
  let sine = SIGN * table[angles + p.half4];
  let at = row * p.pitch4 + head * 2u * p.half4 + i;
  let u = x[at];
  let v = x[at + p.half4];
  x[at] = u * cosine - v * sine;
  x[at + p.half4] = v * cosine + u * sine;
}
