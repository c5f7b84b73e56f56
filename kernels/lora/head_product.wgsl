// Products of activations with the small matrices of several head modules at once.
//
// For slot z and head h = heads[z]:  y_z [m, n] (+)= alpha * x_z [m, k] op(W_h), where W_h lies in
// the parameter arena at weight_first + h * segment, stored [k, n], or [n, k] if TRANSPOSE.
// x_z starts at row x_row + z * x_slot_rows (0: all slots read the same x), y_z at row y_row + z * y_slot_rows.
// If y_slot_rows is 0, all slots are summed into one y instead: y = sum over z of x_z op(W_h).
//
// One invocation computes four rows x four columns. Accumulation rule: overwritten, unless
// accumulate is 1. Sums run over slots, then over k, in order.

override TRANSPOSE: bool = false;

struct Parameters {
  m: u32,
  n4: u32,
  k4: u32,
  slots: u32,
  x_row: u32,
  y_row: u32,
  x_slot_rows: u32,
  y_slot_rows: u32,
  weight_first4: u32,
  segment4: u32,
  accumulate: u32,
  alpha: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;
@group(0) @binding(2) var<storage, read> heads: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Rows k .. k+3 of op(W), four columns of each, as columns of a matrix.
fn load_weight(base: u32, k4: u32, n4: u32) -> mat4x4f {
  if (TRANSPOSE) {
    let at = base + n4 * 4u * p.k4 + k4;
    return transpose(mat4x4f(
      weights[at],
      weights[at + p.k4],
      weights[at + 2u * p.k4],
      weights[at + 3u * p.k4],
    ));
  }
  let at = base + k4 * 4u * p.n4 + n4;
  return mat4x4f(weights[at], weights[at + p.n4], weights[at + 2u * p.n4], weights[at + 3u * p.n4]);
}

fn store(v: vec4f, row: u32, m: u32, n4: u32) {
  if (m >= p.m) {
    return;
  }
  let at = (row + m) * p.n4 + n4;
  var sum = v * p.alpha;
  if (p.accumulate == 1u) {
    sum += y[at];
  }
  y[at] = sum;
}

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let m = id.x * 4u;
  let n4 = id.y;
  if (m >= p.m) {
    return;
  }
  let summed = p.y_slot_rows == 0u;
  let first = select(id.z, 0u, summed);
  let end = select(id.z + 1u, p.slots, summed);
  let last_row = p.m - 1u;
  var sum = mat4x4f();
  for (var z = first; z < end; z++) {
    let base = p.weight_first4 + heads[z] * p.segment4;
    let x_row = p.x_row + z * p.x_slot_rows;
    let r0 = (x_row + m) * p.k4;
    let r1 = (x_row + min(m + 1u, last_row)) * p.k4;
    let r2 = (x_row + min(m + 2u, last_row)) * p.k4;
    let r3 = (x_row + min(m + 3u, last_row)) * p.k4;
    for (var k = 0u; k < p.k4; k++) {
      sum += load_weight(base, k, n4) * mat4x4f(x[r0 + k], x[r1 + k], x[r2 + k], x[r3 + k]);
    }
  }
  let y_row = p.y_row + id.z * p.y_slot_rows;
  store(sum[0], y_row, m, n4);
  store(sum[1], y_row, m + 1u, n4);
  store(sum[2], y_row, m + 2u, n4);
  store(sum[3], y_row, m + 3u, n4);
}
