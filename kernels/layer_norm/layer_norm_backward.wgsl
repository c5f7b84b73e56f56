// dx of layer norm, row by row, with g = dy * gamma and xhat = (x - mean) * rstd:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)).
//
// x, dy, dx [rows, columns]; gamma [1, columns]; statistics [rows, 2] of the forward pass.
// Accumulation rule: dx is overwritten, unless ACCUMULATE is set.

alias Summed = vec2f;

// Sums of g and of g * xhat.
fn sums_of(row: u32, lane: u32, lanes: u32) -> vec2f {
  let base = row * p.pitch4;
  let mean = statistics[row].x;
  var g_sum = vec4f();
  var gx_sum = vec4f();
  for (var i = lane; i < p.pitch4; i += lanes) {
    let g = dy[base + i] * gamma[i];
    g_sum += g;
    gx_sum += g * (x[base + i] - mean);
  }
  let gx = gx_sum * statistics[row].y;
  return vec2f(total(g_sum), total(gx));
}

fn write(row: u32, sums: vec2f, lane: u32, lanes: u32) {
  let base = row * p.pitch4;
  let mean = statistics[row].x;
  let rstd = statistics[row].y;
  let means = sums / f32(p.columns);
  for (var i = lane; i < p.pitch4; i += lanes) {
    let g = dy[base + i] * gamma[i];
    var v = select(vec4f(), rstd * (g - means.x - (x[base + i] - mean) * rstd * means.y), inside(i, p.columns));
    if (ACCUMULATE) {
      v += dx[base + i];
    }
    dx[base + i] = v;
  }
}
