// C = epilogue(alpha * op(A) op(B)), operands in storage buffers: the form for real GPUs.
//
// op(A) [m, k], op(B) [k, n], C [m, n] f32; batched over z = (group, head) with strides below.
// A is stored [m, k], or [k, m] if TRANSPOSE_A; B is stored [k, n], or [n, k] if TRANSPOSE_B.
//
// A workgroup computes a tile of C, 4 x 4 an invocation, from panels of 32 inner elements in
// workgroup memory. Invocations bring 4x4 blocks of A and of B, transposed if need be, so panels
// always hold four neighbours along m or n in one vec4f. Which tile is fastest is measured
// (tiles.ts); all of them give the same bits.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order.

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;
// Epilogue, see below. A constant and not a parameter: software adapters run both sides of a branch.
override EPILOGUE: u32 = 0;
// Rows and columns of a tile / 4.
override TILE_M4: u32 = 16;
override TILE_N4: u32 = 16;

struct Parameters {
  m: u32,            // rows of C
  n: u32,            // columns of C
  k: u32,            // inner length
  heads: u32,        // z = group * heads + head
  a_row: u32,        // first row of the stored A
  a_group_rows: u32, // rows of the stored A from one group to the next
  a_pitch4: u32,     // pitch of the stored A / 4
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

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> aux: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

override A_PANEL = 32u * TILE_M4;
override B_PANEL = 32u * TILE_N4;
override INVOCATIONS = TILE_M4 * TILE_N4;

var<workgroup> a_panel: array<vec4f, A_PANEL>; // [32 inner][TILE_M4 groups of four rows]
var<workgroup> b_panel: array<vec4f, B_PANEL>; // [32 inner][TILE_N4 groups of four columns]

// Elements (k, 4x .. 4x+3) for k .. k+3 of op(A)^T, from either storage; zero outside [m, k].
fn load_a(m: u32, k: u32, row: u32, col4: u32) -> mat4x4f {
  var block = mat4x4f();
  for (var i = 0u; i < 4u; i++) {
    if (TRANSPOSE_A) {
      if (k + i < p.k && m < p.m) {
        block[i] = a[(row + k + i) * p.a_pitch4 + col4 + m / 4u];
      }
    } else if (m + i < p.m && k < p.k) {
      block[i] = a[(row + m + i) * p.a_pitch4 + col4 + k / 4u];
    }
  }
  if (TRANSPOSE_A) {
    return block;
  }
  return transpose(block);
}

// Elements (k, n .. n+3) for k .. k+3 of op(B), from either storage; zero outside [k, n].
fn load_b(n: u32, k: u32, row: u32, col4: u32) -> mat4x4f {
  var block = mat4x4f();
  for (var i = 0u; i < 4u; i++) {
    if (TRANSPOSE_B) {
      if (n + i < p.n && k < p.k) {
        block[i] = b[(row + n + i) * p.b_pitch4 + col4 + k / 4u];
      }
    } else if (k + i < p.k && n < p.n) {
      block[i] = b[(row + k + i) * p.b_pitch4 + col4 + n / 4u];
    }
  }
  if (TRANSPOSE_B) {
    return transpose(block);
  }
  return block;
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

// Where in a panel of 32 inner elements the block lies: (inner, outer) / 4. Along memory first, so
// that neighbours read neighbours.
fn place(block: u32, outer: u32, inner_first: bool) -> vec2u {
  if (inner_first) {
    return vec2u(block % 8u, block / 8u);
  }
  return vec2u(block / outer, block % outer);
}

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = workgroup.y * TILE_M4 * 4u;
  let n0 = workgroup.x * TILE_N4 * 4u;
  let m_end = m0 + TILE_M4 * 4u;
  if (p.causal == CAUSAL_SKIP && n0 >= m_end) {
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
  let k_start = select(0u, m0, p.causal == CAUSAL_K_START);
  let k_end = select(p.k, min(p.k, m_end), p.causal == CAUSAL_K_END);

  let tx = lane % TILE_N4; // four columns of C
  let ty = lane / TILE_N4; // four rows of C

  var sum = mat4x4f();
  for (var k0 = k_start; k0 < k_end; k0 += 32u) {
    for (var block = lane; block < 8u * TILE_M4; block += INVOCATIONS) {
      let at = place(block, TILE_M4, !TRANSPOSE_A);
      let v = load_a(m0 + at.y * 4u, k0 + at.x * 4u, a_row, a_col4);
      for (var i = 0u; i < 4u; i++) {
        a_panel[(at.x * 4u + i) * TILE_M4 + at.y] = v[i];
      }
    }
    for (var block = lane; block < 8u * TILE_N4; block += INVOCATIONS) {
      let at = place(block, TILE_N4, TRANSPOSE_B);
      let v = load_b(n0 + at.y * 4u, k0 + at.x * 4u, b_row, b_col4);
      for (var i = 0u; i < 4u; i++) {
        b_panel[(at.x * 4u + i) * TILE_N4 + at.y] = v[i];
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < 32u; k++) {
      let av = a_panel[k * TILE_M4 + ty];
      let bv = b_panel[k * TILE_N4 + tx];
      sum += mat4x4f(bv * av.x, bv * av.y, bv * av.z, bv * av.w);
    }
    workgroupBarrier();
  }
  let n4 = n0 / 4u + tx;
  if (n4 * 4u >= p.n) {
    return;
  }
  for (var i = 0u; i < 4u; i++) {
    store_row(sum[i], m0 + ty * 4u + i, n4, c_row, c_col4);
  }
}
