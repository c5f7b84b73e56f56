// dx of RMS norm, row by row, with g = dy * gamma: dx = rstd * (g - x * rstd^2 * mean(g * x)).
//
// x, dy, dx [rows, columns]; gamma [1, columns]; statistics [rows, 1] of the forward pass.
// Accumulation rule: dx is overwritten, unless ACCUMULATE is set.

alias Summed = f32;

// Sum of g * x; padding is zero and adds nothing.
fn sums_of(row: u32, lane: u32, lanes: u32) -> f32 {
  var products = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    products += dy[row * p.pitch4 + i] * gamma[i] * x[row * p.pitch4 + i];
  }
  return total(products);
}

fn write(row: u32, products: f32, lane: u32, lanes: u32) {
  let base = row * p.pitch4;
  let rstd = statistics[row].x;
  let slope = rstd * rstd * products / f32(p.columns);
  for (var i = lane; i < p.pitch4; i += lanes) {
    var v = rstd * (dy[base + i] * gamma[i] - x[base + i] * slope);
    if (ACCUMULATE) {
      v += dx[base + i];
    }
    dx[base + i] = v;
  }
}
