// out[row] = table[ids[row]] for the ids that lie in this window of the table.
//
// table [window rows, columns] holds entries first .. first + count; ids [1, rows];
// out [rows, columns]. Accumulation rule: rows whose id is in the window are overwritten, or
// added to if accumulate is 1; other rows stay.

struct Parameters {
  rows: u32,
  pitch4: u32,
  first: u32,
  count: u32,
  accumulate: u32,
}

@group(0) @binding(0) var<storage, read> table: array<vec4f>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let row = id.y;
  if (i >= p.pitch4 || row >= p.rows) {
    return;
  }
  let entry = ids[row] - p.first; // wraps to a large number if it lies before the window
  if (entry >= p.count) {
    return;
  }
  var v = table[entry * p.pitch4 + i];
  if (p.accumulate == 1u) {
    v += out[row * p.pitch4 + i];
  }
  out[row * p.pitch4 + i] = v;
}
