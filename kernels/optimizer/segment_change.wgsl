// Relative change of the segments of a tensor.
//
// x, before [1, segments * segment]; control [segments, 4]; out [1, segments]:
// out[s] = ||x_s - before_s||_F / ||x_s||_F; 0 where control.x is 0 or x_s is all zero.
// Accumulation rule: overwritten.

struct Parameters {
  segments: u32,
  segment4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> before: array<vec4f>;
@group(0) @binding(2) var<storage, read> control: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn row_count() -> u32 {
  return p.segments;
}

alias Summed = vec2f;

// Sums of squares of (the change, x).
fn sums_of(segment: u32, lane: u32, lanes: u32) -> vec2f {
  let end = (segment + 1u) * p.segment4;
  var change = vec4f();
  var now = vec4f();
  for (var i = segment * p.segment4 + lane; i < end; i += lanes) {
    let difference = x[i] - before[i];
    change += difference * difference;
    now += x[i] * x[i];
  }
  return vec2f(total(change), total(now));
}

fn write(segment: u32, squares: vec2f, lane: u32, lanes: u32) {
  if (lane > 0u) {
    return;
  }
  if (control[segment].x == 0.0 || squares.y == 0.0) {
    out[segment] = 0.0;
  } else {
    out[segment] = sqrt(squares.x) / sqrt(squares.y);
  }
}
