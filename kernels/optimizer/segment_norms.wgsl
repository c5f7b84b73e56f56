// Frobenius norms of the segments of a tensor.
//
// x [1, segments * segment]; out [1, ..]: out[first + s] = scale * sqrt(sum of squares), or the
// sum of squares itself if root is 0. active [segments, 4]: where active.x is 0, 0 is written.
// Accumulation rule: overwritten. LANES invocations share a segment.

override LANES: u32 = 1;
override ROWS: u32 = 8;

struct Parameters {
  segments: u32,
  segment4: u32,
  count4: u32, // the last segment may be shorter
  first: u32,
  root: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> control: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> scratch: array<f32, LANES * ROWS>;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let slot = local.y;
  let index = workgroup.x * ROWS + slot;
  let safe = min(index, p.segments - 1u);
  let end = min((safe + 1u) * p.segment4, p.count4);

  var squares = vec4f();
  for (var i = safe * p.segment4 + lane; i < end; i += LANES) {
    squares += x[i] * x[i];
  }
  var sum = (squares.x + squares.y) + (squares.z + squares.w);
  if (LANES > 1u) {
    let at = slot * LANES + lane;
    scratch[at] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      if (lane < half) {
        scratch[at] += scratch[at + half];
      }
      workgroupBarrier();
    }
    sum = scratch[slot * LANES];
  }
  if (lane == 0u && index < p.segments) {
    if (p.root == 1u) {
      sum = sqrt(sum);
    }
    out[p.first + index] = select(sum * p.scale, 0.0, control[index].x == 0.0);
  }
}
