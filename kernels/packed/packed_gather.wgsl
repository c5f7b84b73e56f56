// out[row] = table[ids[row]] for the ids that lie in this window of a table of packed weights.
//
// words and scales of the window (formats.ts) hold entries first .. first + count; ids [1, rows];
// out [rows, columns] f32. Accumulation rule: rows whose id is in the window are overwritten, or
// added to if accumulate is 1; other rows stay.

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
  out[row * p.out_pitch4 + c4] = select(vec4f(), v, inside(c4, p.columns)); // keeps the padding zero
}
