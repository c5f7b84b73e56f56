// Norms of heads' columns: parameters, and what forward and backward pass compute alike. Needs vec4.wgsl.

struct Parameters {
  count: u32, // heads of all rows that are looked at
  slots: u32,
  queries: u32,
  heads: u32,
  size4: u32, // head_size, in vec4s
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gains: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Where the gain of a head begins: those of queries come first.
fn gain_of(head: u32) -> u32 {
  return select(0u, p.size4, head >= p.queries);
}

fn rstd_of(base: u32) -> f32 {
  var squares = vec4f();
  for (var i = 0u; i < p.size4; i++) {
    squares += x[base + i] * x[base + i];
  }
  return inverseSqrt(total(squares) / f32(4u * p.size4) + p.epsilon);
}
