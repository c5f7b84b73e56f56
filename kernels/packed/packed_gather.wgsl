// out[row] = table[ids[row]] for the ids that lie in this window of a table of packed weights.
//
// words and scales of the window (formats.ts) hold entries first .. first + count; ids [1, rows];
// out [rows, columns] f32. Accumulation rule: rows whose id is in the window are overwritten, or
// added to if accumulate is 1; other rows stay.

override FORMAT: u32 = 0; // of the weights: 0 f16, 1 int8, 2 int4
override GROUP: u32 = 1; // weights that share a scale
override ALONG_ROWS: bool = false; // they lie below each other, not side by side

struct Parameters {
  rows: u32,
  columns: u32,
  first: u32,
  count: u32,
  b_pitch: u32,  // words from one row to the next
  s_row: u32,    // added to an entry's place in the window: its scales' row, times GROUP if ALONG_ROWS
  s_pitch: u32,  // pitch of the scales
  out_pitch4: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<storage, read> words: array<u32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

const F16 = 0u;
const INT8 = 1u;
const INT4 = 2u;

// Four neighbouring codes: columns 4 c4 .. 4 c4 + 3 of the row whose words begin at `at`.
fn codes(at: u32, c4: u32) -> vec4f {
  if (FORMAT == F16) {
    return vec4f(unpack2x16float(words[at + c4 * 2u]), unpack2x16float(words[at + c4 * 2u + 1u]));
  }
  if (FORMAT == INT8) {
    let w = words[at + c4];
    return vec4f(bitcast<vec4i>(vec4u(w << 24u, w << 16u, w << 8u, w)) >> vec4u(24u));
  }
  let w = words[at + c4 / 2u] >> (c4 % 2u * 16u);
  return vec4f(bitcast<vec4i>(vec4u(w << 28u, w << 24u, w << 20u, w << 16u)) >> vec4u(28u));
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c4 = id.x;
  let row = id.y;
  if (c4 >= p.out_pitch4 || row >= p.rows) {
    return;
  }
  let entry = ids[row] - p.first; // wraps to a large number if it lies before the window
  if (entry >= p.count) {
    return;
  }
  var v = codes(entry * p.b_pitch, c4);
  if (FORMAT != F16) {
    if (ALONG_ROWS) {
      let at = (entry + p.s_row) / GROUP * p.s_pitch + c4 * 4u;
      v *= vec4f(scales[at], scales[at + 1u], scales[at + 2u], scales[at + 3u]);
    } else {
      v *= scales[(entry + p.s_row) * p.s_pitch + c4 * 4u / GROUP];
    }
  }
  if (p.accumulate == 1u) {
    v += out[row * p.out_pitch4 + c4];
  }
  let n = vec4u(c4 * 4u) + vec4u(0u, 1u, 2u, 3u);
  out[row * p.out_pitch4 + c4] = select(vec4f(), v, n < vec4u(p.columns)); // keeps the padding zero
}
