// C = epilogue(alpha * A op(B)), B of packed weights: the form for real GPUs.
//
// A [m, k] f32; op(B) [k, n], stored [k, n], or [n, k] if TRANSPOSE_B, as packed words and scales
// (formats.ts); C [m, n] f32. Weights are unpacked to f32 as a panel is brought to workgroup memory:
// code * scale. The rest is as in matmul_tiled.wgsl, with the same tiles.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order, in f32.

override TRANSPOSE_B: bool = false;
override EPILOGUE: u32 = 0; // see below
override FORMAT: u32 = 0; // of the weights: 0 f16, 1 int8, 2 int4
override GROUP: u32 = 1; // weights that share a scale
override ALONG_ROWS: bool = false; // they lie below each other, not side by side
// Rows and columns of a tile / 4.
override TILE_M4: u32 = 16;
override TILE_N4: u32 = 16;

struct Parameters {
  m: u32,          // rows of C
  n: u32,          // columns of C
  k: u32,          // inner length
  a_row: u32,      // first row of A
  a_col4: u32,     // first column of A / 4
  a_pitch4: u32,   // pitch of A / 4
  b_row: u32,      // first row of the stored B
  b_pitch: u32,    // words from one stored row of B to the next
  s_row: u32,      // added to a stored row of B: its scales' row, times GROUP if ALONG_ROWS
  s_pitch: u32,    // pitch of the scales
  c_row: u32,
  c_col4: u32,
  c_pitch4: u32,   // pitch of C / 4
  aux_pitch4: u32, // pitch of aux / 4
  n_first4: u32,   // where column 0 lies in bias and aux / 4
  alpha: f32,
}

const BIAS = 1u;        // + bias[n]
const GELU = 2u;        // aux = the sum so far; C = gelu of it
const RESIDUAL = 4u;    // + aux
const GELU_GRAD = 8u;   // * gelu'(aux)
const ACCUMULATE = 16u; // C += instead of C =
const PARTIAL = 32u;    // C holds the sum over an earlier part of k: goes on from it, before the rest

const F16 = 0u;
const INT8 = 1u;
const INT4 = 2u;

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> aux: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

override A_PANEL = 32u * TILE_M4;
override B_PANEL = 32u * TILE_N4;
override INVOCATIONS = TILE_M4 * TILE_N4;

var<workgroup> a_panel: array<vec4f, A_PANEL>; // [32 inner][TILE_M4 groups of four rows]
var<workgroup> b_panel: array<vec4f, B_PANEL>; // [32 inner][TILE_N4 groups of four columns]

// Elements (k, m .. m+3) for k .. k+3 of A^T; zero outside [m, k].
fn load_a(m: u32, k: u32) -> mat4x4f {
  var block = mat4x4f();
  for (var i = 0u; i < 4u; i++) {
    if (m + i < p.m && k < p.k) {
      block[i] = a[(p.a_row + m + i) * p.a_pitch4 + p.a_col4 + k / 4u];
    }
  }
  return transpose(block);
}

// Four neighbouring codes: columns 4 c4 .. 4 c4 + 3 of the row whose words begin at `at`.
fn codes(at: u32, c4: u32) -> vec4f {
  if (FORMAT == F16) {
    return vec4f(unpack2x16float(words[at + c4 * 2u]), unpack2x16float(words[at + c4 * 2u + 1u]));
  }
  if (FORMAT == INT8) {
    let w = words[at + c4];
    return vec4f(bitcast<vec4i>(vec4u(w << 24u, w << 16u, w << 8u, w)) >> vec4u(24u));
  }
  let w = words[at + c4 / 2u] >> (c4 % 2u * 16u);
  return vec4f(bitcast<vec4i>(vec4u(w << 28u, w << 24u, w << 20u, w << 16u)) >> vec4u(28u));
}

// Scales of a 4 x 4 block of the stored B from (row, 4 c4) on; a block lies in one group of its direction.
// With groups along the columns one a row, else one a column.
fn block_scales(row: u32, c4: u32) -> vec4f {
  if (FORMAT == F16) {
    return vec4f(1.0);
  }
  if (ALONG_ROWS) {
    let at = (row + p.s_row) / GROUP * p.s_pitch + c4 * 4u;
    return vec4f(scales[at], scales[at + 1u], scales[at + 2u], scales[at + 3u]);
  }
  let at = (row + p.s_row) * p.s_pitch + c4 * 4u / GROUP;
  return vec4f(
    scales[at],
    scales[at + p.s_pitch],
    scales[at + 2u * p.s_pitch],
    scales[at + 3u * p.s_pitch],
  );
}

// Elements (k, n .. n+3) for k .. k+3 of op(B); zero outside [k, n].
fn load_b(n: u32, k: u32) -> mat4x4f {
  var block = mat4x4f();
  if (n >= p.n || k >= p.k) {
    return block;
  }
  let first = select(k, n, TRANSPOSE_B);
  let last = select(p.k, p.n, TRANSPOSE_B);
  let c4 = select(n, k, TRANSPOSE_B) / 4u;
  let s = block_scales(p.b_row + first, c4);
  for (var i = 0u; i < 4u; i++) {
    if (first + i < last) {
      let v = codes((p.b_row + first + i) * p.b_pitch, c4);
      if (ALONG_ROWS) {
        block[i] = v * s;
      } else {
        block[i] = v * s[i];
      }
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

fn store_row(sum: vec4f, m: u32, n4: u32) {
  if (m >= p.m) {
    return;
  }
  let at = (p.c_row + m) * p.c_pitch4 + p.c_col4 + n4;
  let aux_at = (p.c_row + m) * p.aux_pitch4 + p.n_first4 + n4;
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
  let tx = lane % TILE_N4; // four columns of C
  let ty = lane / TILE_N4; // four rows of C

  var sum = mat4x4f();
  for (var k0 = 0u; k0 < p.k; k0 += 32u) {
    for (var block = lane; block < 8u * TILE_M4; block += INVOCATIONS) {
      let at = place(block, TILE_M4, true);
      let v = load_a(m0 + at.y * 4u, k0 + at.x * 4u);
      for (var i = 0u; i < 4u; i++) {
        a_panel[(at.x * 4u + i) * TILE_M4 + at.y] = v[i];
      }
    }
    for (var block = lane; block < 8u * TILE_N4; block += INVOCATIONS) {
      let at = place(block, TILE_N4, TRANSPOSE_B);
      let v = load_b(n0 + at.y * 4u, k0 + at.x * 4u);
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
    store_row(sum[i], m0 + ty * 4u + i, n4);
  }
}
