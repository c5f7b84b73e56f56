// Keys and values of continued sequences: those of their parents, then the new ones.
//
// cache [rows * slots, columns], for each row r and slot s from `begin` on:
//   s < length: old[parents[r] * old_slots + s]
//   s < length + added: columns first .. of source[r * added + s - length]
//   else: 0
//
// old [old_rows * old_slots, columns]; source [rows * added, pitch]; parents [1, rows].
// Accumulation rule: overwritten. With begin = length nothing is read from old.

struct Parameters {
  slots: u32,
  old_slots: u32,
  begin: u32,
  end: u32,
  length: u32,
  added: u32,
  columns4: u32,
  first4: u32,
  source_pitch4: u32,
}

@group(0) @binding(0) var<storage, read> old: array<vec4f>;
@group(0) @binding(1) var<storage, read> parents: array<u32>;
@group(0) @binding(2) var<storage, read> source: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> cache: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = workgroup.x * 64u + lane;
  let slot = p.begin + workgroup.y;
  let row = workgroup.z;
  if (i >= p.columns4 || slot >= p.end) {
    return;
  }
  var v = vec4f();
  if (slot < p.length) {
    v = old[(parents[row] * p.old_slots + slot) * p.columns4 + i];
  } else if (slot < p.length + p.added) {
    v = source[(row * p.added + slot - p.length) * p.source_pitch4 + p.first4 + i];
  }
  cache[(row * p.slots + slot) * p.columns4 + i] = v;
}
