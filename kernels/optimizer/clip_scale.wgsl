// Factor that brings the global norm down to a limit, from sums of squares.
//
// squares [1, count]; clip [1, 4] = (min(1, limit / (norm + 1e-6)), norm, -, -). Overwritten.
// One invocation: a few thousand sums at most.

struct Parameters {
  count: u32,
  limit: f32,
}

@group(0) @binding(0) var<storage, read> squares: array<f32>;
@group(0) @binding(1) var<storage, read_write> clip: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(1)
fn main() {
  var sum = 0.0;
  for (var i = 0u; i < p.count; i++) {
    sum += squares[i];
  }
  let norm = sqrt(sum);
  clip[0] = vec4f(min(1.0, p.limit / (norm + 1e-6)), norm, 0.0, 0.0);
}
