// d_table[entry] += sum of d_out over the rows that gathered it.
//
// lists [1, ..] u32, as the wrapper made it from the ids: for group g of equal ids its entry at
// g, its first place at groups + g, its end at groups + g + 1; the rows themselves from 2 * groups + 1 on.
// d_out [rows, columns]; d_table [window rows, columns] holds entries first .. first + count.
// One invocation adds up all rows of an entry, in order: no atomics, the same bits every time.

struct Parameters {
  groups: u32,
  pitch4: u32,
  first: u32,
  count: u32,
}

@group(0) @binding(0) var<storage, read> d_out: array<vec4f>;
@group(0) @binding(1) var<storage, read> lists: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_table: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let g = id.y;
  if (i >= p.pitch4 || g >= p.groups) {
    return;
  }
  let entry = lists[g] - p.first;
  if (entry >= p.count) {
    return;
  }
  var sum = d_table[entry * p.pitch4 + i];
  let end = lists[p.groups + g + 1u];
  for (var place = lists[p.groups + g]; place < end; place++) {
    sum += d_out[lists[2u * p.groups + 1u + place] * p.pitch4 + i];
  }
  d_table[entry * p.pitch4 + i] = sum;
}
