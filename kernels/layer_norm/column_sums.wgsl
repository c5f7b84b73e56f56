// Sums down the rows: bias gradients, and layer norm's dgamma and dbeta in one go.
//
// plain[c] += sum over rows of dy[row, c]
// scaled[c] += sum over rows of dy[row, c] * (x[row, c] - mean[row]) * rstd[row], if NORMALISED
//
// x, dy [rows, columns]; statistics [rows, 2]; plain, scaled [1, columns].
// Accumulation rule: added to.

override NORMALISED: bool = false;

struct Parameters {
  rows: u32,
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> plain: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> scaled: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn row_count() -> u32 {
  return p.pitch4;
}

alias Summed = mat2x4f;

// Sums of dy and of dy * xhat over every lanes-th row.
fn sums_of(column: u32, lane: u32, lanes: u32) -> mat2x4f {
  var sums = mat2x4f();
  for (var row = lane; row < p.rows; row += lanes) {
    let d = dy[row * p.pitch4 + column];
    sums[0] += d;
    if (NORMALISED) {
      let s = statistics[row];
      sums[1] += d * (x[row * p.pitch4 + column] - s.x) * s.y;
    }
  }
  return sums;
}

fn write(column: u32, sums: mat2x4f, lane: u32, lanes: u32) {
  if (lane > 0u) {
    return;
  }
  plain[column] += sums[0];
  if (NORMALISED) {
    scaled[column] += sums[1];
  }
}
