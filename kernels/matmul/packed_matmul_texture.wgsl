// C = epilogue(alpha * A op(B)), B of packed weights: the form for software adapters.
//
// A [m, k] f32 in a storage texture; op(B) [k, n], stored [k, n], or [n, k] if TRANSPOSE_B, as packed words
// and scales (formats.ts); C [m, n] f32. Weights are unpacked to f32 as they are read: code * scale.
//
// One invocation computes 16 rows x 8 columns of C in eight named mat4x4f, as matmul_texture.wgsl does, from
// 8 x 8 blocks of op(B): eight neighbouring codes are one load, which is what buffers cost here. If groups lie
// along k, the scales of its columns are read once a group.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order, in f32.

override TRANSPOSE_B: bool = false;
override EPILOGUE: u32 = 0; // see below
override FORMAT: u32 = 0; // of the weights: 0 f16, 1 int8, 2 int4
override GROUP: u32 = 1; // weights that share a scale
override ALONG_ROWS: bool = false; // they lie below each other, not side by side

struct Parameters {
  m: u32,          // rows of C
  n: u32,          // columns of C
  k: u32,          // inner length
  a_row: u32,      // first row of A
  a_col4: u32,     // first column of A / 4
  a_pitch4: u32,   // pitch of A / 4; unused here
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

@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
// The same words, as eight codes of f16, int8 and int4 are.
@group(0) @binding(1) var<storage, read> words4: array<vec4u>;
@group(0) @binding(2) var<storage, read> words2: array<vec2u>;
@group(0) @binding(3) var<storage, read> words: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(6) var<storage, read> bias: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> aux: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

// The scales of four columns of C are the same for GROUP neighbours along k.
override ALONG_K = FORMAT != F16 && TRANSPOSE_B != ALONG_ROWS;

// Rows m .. m+3 of A as columns of a matrix, elements k .. k+3 of each.
fn load_a(m: u32, k: u32) -> mat4x4f {
  let x = p.a_col4 + k / 4u;
  let y = p.a_row + m;
  return mat4x4f(
    textureLoad(a, vec2u(x, y)),
    textureLoad(a, vec2u(x, y + 1u)),
    textureLoad(a, vec2u(x, y + 2u)),
    textureLoad(a, vec2u(x, y + 3u)),
  );
}

// Four codes of a word each.
fn bytes(w: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(w << 24u, w << 16u, w << 8u, w)) >> vec4u(24u));
}

fn nibbles(w: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(w << 28u, w << 24u, w << 20u, w << 16u)) >> vec4u(28u));
}

struct Eight {
  low: vec4f,
  high: vec4f,
}

// Eight neighbouring codes: columns 8 c8 .. 8 c8 + 7 of a stored row.
fn codes(row: u32, c8: u32) -> Eight {
  let at = row * p.b_pitch;
  if (FORMAT == F16) {
    let w = words4[at / 4u + c8];
    return Eight(
      vec4f(unpack2x16float(w.x), unpack2x16float(w.y)),
      vec4f(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
  }
  if (FORMAT == INT8) {
    let w = words2[at / 2u + c8];
    return Eight(bytes(w.x), bytes(w.y));
  }
  let w = words[at + c8];
  return Eight(nibbles(w), nibbles(w >> 16u));
}

struct Blocks {
  low: mat4x4f,
  high: mat4x4f,
}

// Two 4 x 4 blocks of the stored B side by side, from (row, 8 c8) on: rows as columns of the matrices, or, if
// TRANSPOSE_B, columns.
fn load_blocks(row: u32, c8: u32) -> Blocks {
  let r0 = codes(row, c8);
  let r1 = codes(row + 1u, c8);
  let r2 = codes(row + 2u, c8);
  let r3 = codes(row + 3u, c8);
  let low = mat4x4f(r0.low, r1.low, r2.low, r3.low);
  let high = mat4x4f(r0.high, r1.high, r2.high, r3.high);
  if (TRANSPOSE_B) {
    return Blocks(transpose(low), transpose(high));
  }
  return Blocks(low, high);
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

// Scales of a 4 x 4 block of op(B): of its columns if groups lie along k, else of its rows.
fn block_scales_at(k: u32, n4: u32) -> vec4f {
  if (TRANSPOSE_B) {
    return block_scales(p.b_row + n4 * 4u, k / 4u);
  }
  return block_scales(p.b_row + k, n4);
}

// Codes b of rows k .. k+3 and columns n .. n+3 of op(B) times their scales.
fn scaled(b: mat4x4f, column_scales: vec4f, k: u32, n4: u32) -> mat4x4f {
  if (FORMAT == F16) {
    return b;
  }
  if (ALONG_K) {
    return mat4x4f(b[0] * column_scales, b[1] * column_scales, b[2] * column_scales, b[3] * column_scales);
  }
  let s = block_scales_at(k, n4);
  return mat4x4f(b[0] * s.x, b[1] * s.y, b[2] * s.z, b[3] * s.w);
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

fn store(block: mat4x4f, m: u32, n4: u32) {
  if (n4 * 4u >= p.n) {
    return;
  }
  store_row(block[0], m, n4);
  store_row(block[1], m + 1u, n4);
  store_row(block[2], m + 2u, n4);
  store_row(block[3], m + 3u, n4);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let m = workgroup.x * 16u;
  let n4 = (workgroup.y * 8u + lane.x) * 2u;
  if (n4 * 4u >= p.n) {
    return;
  }

  var c00 = mat4x4f();
  var c10 = mat4x4f();
  var c20 = mat4x4f();
  var c30 = mat4x4f();
  var c01 = mat4x4f();
  var c11 = mat4x4f();
  var c21 = mat4x4f();
  var c31 = mat4x4f();
  for (var k_group = 0u; k_group < p.k;) {
    var k_end = p.k;
    var s0 = vec4f(1.0);
    var s1 = vec4f(1.0);
    if (ALONG_K) {
      // Groups along the rows need not begin with the operand.
      let before = select(0u, (p.b_row + p.s_row) % GROUP, ALONG_ROWS);
      k_end = min(p.k, ((k_group + before) / GROUP + 1u) * GROUP - before);
      s0 = block_scales_at(k_group, n4);
      s1 = block_scales_at(k_group, n4 + 1u);
    }
    // A is zero where the last eight go past k.
    for (var k = k_group; k < k_end; k += 8u) {
      let row = p.b_row + select(k, n4 * 4u, TRANSPOSE_B);
      let c8 = select(n4 / 2u, k / 8u, TRANSPOSE_B);
      let x = load_blocks(row, c8);
      let y = load_blocks(row + 4u, c8);
      {
        let b0 = scaled(x.low, s0, k, n4);
        var b1 = x.high;
        if (TRANSPOSE_B) {
          b1 = y.low;
        }
        b1 = scaled(b1, s1, k, n4);
        let a0 = load_a(m, k);
        c00 += b0 * a0;
        c01 += b1 * a0;
        let a1 = load_a(m + 4u, k);
        c10 += b0 * a1;
        c11 += b1 * a1;
        let a2 = load_a(m + 8u, k);
        c20 += b0 * a2;
        c21 += b1 * a2;
        let a3 = load_a(m + 12u, k);
        c30 += b0 * a3;
        c31 += b1 * a3;
      }
      {
        var b0 = y.low;
        if (TRANSPOSE_B) {
          b0 = x.high;
        }
        b0 = scaled(b0, s0, k + 4u, n4);
        let b1 = scaled(y.high, s1, k + 4u, n4);
        let a0 = load_a(m, k + 4u);
        c00 += b0 * a0;
        c01 += b1 * a0;
        let a1 = load_a(m + 4u, k + 4u);
        c10 += b0 * a1;
        c11 += b1 * a1;
        let a2 = load_a(m + 8u, k + 4u);
        c20 += b0 * a2;
        c21 += b1 * a2;
        let a3 = load_a(m + 12u, k + 4u);
        c30 += b0 * a3;
        c31 += b1 * a3;
      }
    }
    k_group = k_end;
  }
  store(c00, m, n4);
  store(c10, m + 4u, n4);
  store(c20, m + 8u, n4);
  store(c30, m + 12u, n4);
  store(c01, m, n4 + 1u);
  store(c11, m + 4u, n4 + 1u);
  store(c21, m + 8u, n4 + 1u);
  store(c31, m + 12u, n4 + 1u);
}
