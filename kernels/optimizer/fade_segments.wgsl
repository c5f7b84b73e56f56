// Multiplies a matrix of each segment that is not active.
//
// parameters [segments, segment], of which this window begins at segment `row`; control [segments, 4]: where the first
// value is not 0 the segment stays. Updated in place.

struct Parameters {
  segment4: u32,
  first4: u32, // where the matrix lies in a segment
  row: u32, // the segment that this window of the tensor starts with
  size4: u32, // of the matrix
  count4: u32,
  factor: f32,
}

@group(0) @binding(0) var<storage, read_write> parameters: array<vec4f>;
@group(0) @binding(1) var<storage, read> control: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = grid_index(workgroup, lane, 64u);
  if (i >= p.count4) {
    return;
  }
  let segment = i / p.size4;
  if (control[p.row + segment].x != 0.0) {
    return;
  }
  parameters[segment * p.segment4 + p.first4 + i % p.size4] *= p.factor;
}
