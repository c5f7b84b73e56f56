// y = x * rstd * gamma with rstd = 1 / sqrt(mean(x^2) + epsilon), row by row.
//
// x, y [rows, columns]; gamma [1, columns]; statistics [rows, 1] = rstd, kept for the backward
// pass. Accumulation rule: outputs are overwritten.

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> statistics: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn row_count() -> u32 {
  return p.rows;
}

alias Summed = f32;

// Padding is zero and adds nothing.
fn sums_of(row: u32, lane: u32, lanes: u32) -> f32 {
  var squares = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    let v = x[row * p.pitch4 + i];
    squares += v * v;
  }
  return total(squares);
}

fn write(row: u32, squares: f32, lane: u32, lanes: u32) {
  let rstd = inverseSqrt(squares / f32(p.columns) + p.epsilon);
  let base = row * p.pitch4;
  for (var i = lane; i < p.pitch4; i += lanes) {
    y[base + i] = x[base + i] * rstd * gamma[i];
  }
  if (lane == 0u) {
    statistics[row] = vec4f(rstd, 0.0, 0.0, 0.0);
  }
}
