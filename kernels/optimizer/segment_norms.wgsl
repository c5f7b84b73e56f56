// Frobenius norms of the segments of a tensor.
//
// x [1, segments * segment]; out [1, ..]: out[first + s] = scale * sqrt(sum of squares), or the
// sum of squares itself if root is 0. active [segments, 4]: where active.x is 0, 0 is written.
// Accumulation rule: overwritten.

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

fn row_count() -> u32 {
  return p.segments;
}

alias Summed = f32;

fn sums_of(segment: u32, lane: u32, lanes: u32) -> f32 {
  let end = min((segment + 1u) * p.segment4, p.count4);
  var squares = vec4f();
  for (var i = segment * p.segment4 + lane; i < end; i += lanes) {
    squares += x[i] * x[i];
  }
  return total(squares);
}

fn write(segment: u32, squares: f32, lane: u32, lanes: u32) {
  if (lane > 0u) {
    return;
  }
  let result = select(squares, sqrt(squares), p.root == 1u) * p.scale;
  out[p.first + segment] = select(result, 0.0, control[segment].x == 0.0);
}
