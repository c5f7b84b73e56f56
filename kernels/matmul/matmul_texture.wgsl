// C = epilogue(alpha * op(A) op(B)), operands in storage textures: the form for software adapters.
//
// op(A) [m, k], op(B) [k, n], C [m, n] f32; batched over z = (group, head) with strides below.
// A is stored [m, k], or [k, m] if TRANSPOSE_A; B is stored [k, n], or [n, k] if TRANSPOSE_B.
// Texel (x, y) of an operand holds elements 4x .. 4x+3 of row y.
//
// One invocation computes 16 rows x 8 columns of C in eight named mat4x4f: four rows of C each,
// as columns of the matrix, so that c += b * a adds a 4x4 block of the product. Named variables
// stay in registers; indexed arrays would not. Lanes of a workgroup lie along n, workgroup_id.x
// walks m, so neighbours share a panel of B in the cache.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order.

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;
// Epilogue, see below. A constant and not a parameter: software adapters run both sides of a branch.
override EPILOGUE: u32 = 0;

struct Parameters {
  m: u32,            // rows of C
  n: u32,            // columns of C
  k: u32,            // inner length
  heads: u32,        // z = group * heads + head
  a_row: u32,        // first row of the stored A
  a_group_rows: u32, // rows of the stored A from one group to the next
  a_pitch4: u32,     // pitch of the stored A / 4; unused here
  a_head_cols4: u32, // columns / 4 from one head to the next
  a_col4: u32,       // first column / 4
  b_row: u32,
  b_group_rows: u32,
  b_pitch4: u32,
  b_head_cols4: u32,
  b_col4: u32,
  c_row: u32,
  c_group_rows: u32,
  c_head_cols4: u32,
  c_col4: u32,
  c_pitch4: u32,     // pitch of C / 4
  aux_pitch4: u32,   // pitch of aux / 4
  n_first4: u32,     // where column 0 lies in bias and aux / 4
  causal: u32,       // see below
  alpha: f32,
}

const BIAS = 1u;        // + bias[n]
const GELU = 2u;        // aux = the sum so far; C = gelu of it
const RESIDUAL = 4u;    // + aux
const GELU_GRAD = 8u;   // * gelu'(aux)
const ACCUMULATE = 16u; // C += instead of C =
const PARTIAL = 32u;    // C holds the sum over an earlier part of k: goes on from it, before the rest

const CAUSAL_SKIP = 1u;    // tiles wholly above the diagonal (n > m) are not computed
const CAUSAL_K_END = 2u;   // op(A) is zero where k > m: the sum may end after the tile's last row
const CAUSAL_K_START = 3u; // op(A) is zero where k < m: the sum may start at the tile's first row

@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var b: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> aux: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Rows m .. m+3 of op(A) as columns of a matrix, elements k .. k+3 of each.
fn load_a(m: u32, k: u32, row: u32, col4: u32) -> mat4x4f {
  if (TRANSPOSE_A) {
    let x = col4 + m / 4u;
    let y = row + k;
    // Rows past k belong to the next group in both operands: they count as zero.
    return transpose(mat4x4f(
      textureLoad(a, vec2u(x, y)),
      textureLoad(a, vec2u(x, y + 1u)) * select(0.0, 1.0, k + 1u < p.k),
      textureLoad(a, vec2u(x, y + 2u)) * select(0.0, 1.0, k + 2u < p.k),
      textureLoad(a, vec2u(x, y + 3u)) * select(0.0, 1.0, k + 3u < p.k),
    ));
  }
  let x = col4 + k / 4u;
  let y = row + m;
  return mat4x4f(
    textureLoad(a, vec2u(x, y)),
    textureLoad(a, vec2u(x, y + 1u)),
    textureLoad(a, vec2u(x, y + 2u)),
    textureLoad(a, vec2u(x, y + 3u)),
  );
}

// Rows k .. k+3 of op(B) as columns of a matrix, elements n .. n+3 of each.
fn load_b(k: u32, n4: u32, row: u32, col4: u32) -> mat4x4f {
  if (TRANSPOSE_B) {
    let x = col4 + k / 4u;
    let y = row + n4 * 4u;
    return transpose(mat4x4f(
      textureLoad(b, vec2u(x, y)),
      textureLoad(b, vec2u(x, y + 1u)),
      textureLoad(b, vec2u(x, y + 2u)),
      textureLoad(b, vec2u(x, y + 3u)),
    ));
  }
  let x = col4 + n4;
  let y = row + k;
  return mat4x4f(
    textureLoad(b, vec2u(x, y)),
    textureLoad(b, vec2u(x, y + 1u)),
    textureLoad(b, vec2u(x, y + 2u)),
    textureLoad(b, vec2u(x, y + 3u)),
  );
}

fn gelu(x: vec4f) -> vec4f {
  // 0.5 x (1 + tanh(u / 2)) = x / (1 + exp(-u))
  let u = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  return x / (1.0 + exp(-u));
}

fn gelu_grad(x: vec4f) -> vec4f {
  let u = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  let s = 1.0 / (1.0 + exp(-u));
  return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x);
}

fn store_row(sum: vec4f, m: u32, n4: u32, row: u32, col4: u32) {
  if (m >= p.m) {
    return;
  }
  let at = (row + m) * p.c_pitch4 + col4 + n4;
  let aux_at = (row + m) * p.aux_pitch4 + p.n_first4 + n4;
  var v = sum * p.alpha;
  if ((EPILOGUE & PARTIAL) != 0u) {
    v += c[at];
  }
  if ((EPILOGUE & BIAS) != 0u) {
    v += bias[p.n_first4 + n4];
  }
  if ((EPILOGUE & GELU) != 0u) {
    aux[aux_at] = v;
    v = gelu(v);
  }
  if ((EPILOGUE & RESIDUAL) != 0u) {
    v += aux[aux_at];
  }
  if ((EPILOGUE & GELU_GRAD) != 0u) {
    v *= gelu_grad(aux[aux_at]);
  }
  if ((EPILOGUE & ACCUMULATE) != 0u) {
    v += c[at];
  }
  let n = vec4u(n4 * 4u) + vec4u(0u, 1u, 2u, 3u);
  c[at] = select(vec4f(), v, n < vec4u(p.n)); // keeps the padding zero
}

fn store(block: mat4x4f, m: u32, n4: u32, row: u32, col4: u32) {
  if (n4 * 4u >= p.n) {
    return;
  }
  store_row(block[0], m, n4, row, col4);
  store_row(block[1], m + 1u, n4, row, col4);
  store_row(block[2], m + 2u, n4, row, col4);
  store_row(block[3], m + 3u, n4, row, col4);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let m = workgroup.x * 16u;
  let n4 = (workgroup.y * 8u + lane.x) * 2u;
  if (n4 * 4u >= p.n || (p.causal == CAUSAL_SKIP && workgroup.y * 64u > m + 15u)) {
    return;
  }
  let group = workgroup.z / p.heads;
  let head = workgroup.z % p.heads;
  let a_row = p.a_row + group * p.a_group_rows;
  let a_col4 = p.a_col4 + head * p.a_head_cols4;
  let b_row = p.b_row + group * p.b_group_rows;
  let b_col4 = p.b_col4 + head * p.b_head_cols4;
  let c_row = p.c_row + group * p.c_group_rows;
  let c_col4 = p.c_col4 + head * p.c_head_cols4;
  let k_start = select(0u, m, p.causal == CAUSAL_K_START);
  let k_end = select(p.k, min(p.k, m + 16u), p.causal == CAUSAL_K_END);

  var c00 = mat4x4f();
  var c10 = mat4x4f();
  var c20 = mat4x4f();
  var c30 = mat4x4f();
  var c01 = mat4x4f();
  var c11 = mat4x4f();
  var c21 = mat4x4f();
  var c31 = mat4x4f();
  for (var k = k_start; k < k_end; k += 4u) {
    let b0 = load_b(k, n4, b_row, b_col4);
    let b1 = load_b(k, n4 + 1u, b_row, b_col4);
    let a0 = load_a(m, k, a_row, a_col4);
    c00 += b0 * a0;
    c01 += b1 * a0;
    let a1 = load_a(m + 4u, k, a_row, a_col4);
    c10 += b0 * a1;
    c11 += b1 * a1;
    let a2 = load_a(m + 8u, k, a_row, a_col4);
    c20 += b0 * a2;
    c21 += b1 * a2;
    let a3 = load_a(m + 12u, k, a_row, a_col4);
    c30 += b0 * a3;
    c31 += b1 * a3;
  }
  store(c00, m, n4, c_row, c_col4);
  store(c10, m + 4u, n4, c_row, c_col4);
  store(c20, m + 8u, n4, c_row, c_col4);
  store(c30, m + 12u, n4, c_row, c_col4);
  store(c01, m, n4 + 1u, c_row, c_col4);
  store(c11, m + 4u, n4 + 1u, c_row, c_col4);
  store(c21, m + 8u, n4 + 1u, c_row, c_col4);
  store(c31, m + 12u, n4 + 1u, c_row, c_col4);
}
