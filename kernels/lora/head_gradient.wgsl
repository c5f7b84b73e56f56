// Gradients of the small matrices of several head modules at once.
//
// For slot z and head h = heads[z]:  dW_h [m, n] = alpha * a_z^T b_z, summed over length rows,
// written to the gradient arena at first + h * segment. a_z [length, m] starts at row
// z * a_slot_rows, b_z [length, n] at row b_row + z * b_slot_rows (0: all slots read the same).
//
// One invocation computes four rows x four columns. Accumulation rule: overwritten, unless
// accumulate is 1. Rows in order.

struct Parameters {
  m4: u32,
  n4: u32,
  length: u32,
  b_row: u32,
  a_slot_rows: u32,
  b_slot_rows: u32,
  first4: u32,
  segment4: u32,
  m: u32,
  accumulate: u32,
  alpha: f32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read> heads: array<u32>;
@group(0) @binding(3) var<storage, read_write> gradients: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let m4 = id.x / p.n4;
  let n4 = id.x % p.n4;
  let z = id.y;
  if (m4 >= p.m4) {
    return;
  }
  let a_row = z * p.a_slot_rows;
  let b_row = p.b_row + z * p.b_slot_rows;
  var sum = mat4x4f();
  for (var t = 0u; t < p.length; t++) {
    let av = a[(a_row + t) * p.m4 + m4];
    let bv = b[(b_row + t) * p.n4 + n4];
    sum += mat4x4f(bv * av.x, bv * av.y, bv * av.z, bv * av.w);
  }
  let at = p.first4 + heads[z] * p.segment4 + m4 * 4u * p.n4 + n4;
  for (var i = 0u; i < 4u; i++) {
    if (m4 * 4u + i < p.m) {
      var gradient = sum[i] * p.alpha;
      if (p.accumulate == 1u) {
        gradient += gradients[at + i * p.n4];
      }
      gradients[at + i * p.n4] = gradient;
    }
  }
}
