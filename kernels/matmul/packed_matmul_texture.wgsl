// C = epilogue(alpha * A op(B)), B of packed weights: the form for software adapters.
//
// A [m, k] f32 in a storage texture; op(B) [k, n], stored [k, n], or [n, k] if TRANSPOSE_B, as packed words
// and scales (packed/formats.ts); C [m, n] f32. Weights are unpacked to f32 as they are read: code * scale.
//
// One invocation computes 16 rows x 8 columns of C in eight named mat4x4f, as matmul_texture.wgsl does, from
// 8 x 8 blocks of op(B): eight neighbouring codes are one load, which is what buffers cost here. If groups lie
// along k, the scales of its columns are read once a group. Past the last row and column it does as
// matmul_texture.wgsl.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order, in f32.

@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
// The same words, as eight codes of f16, int8 and int4 are.
@group(0) @binding(1) var<storage, read> words4: array<vec4u>;
@group(0) @binding(2) var<storage, read> words2: array<vec2u>;
@group(0) @binding(3) var<storage, read> words: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<f32>;
@group(0) @binding(5) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(6) var<storage, read> bias: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> aux: array<vec4f>;

// The scales of four columns of C are the same for GROUP neighbours along k.
override ALONG_K = FORMAT != F16 && TRANSPOSE_B != ALONG_ROWS;

// Rows m .. m+3 of A as columns of a matrix, elements k .. k+3 of each; k is below p.k.
fn load_a(m: u32, k: u32) -> mat4x4f {
  let x = p.a_col4 + k / 4u;
  let last = p.m - 1u;
  return mat4x4f(
    textureLoad(a, vec2u(x, p.a_row + min(m, last))),
    textureLoad(a, vec2u(x, p.a_row + min(m + 1u, last))),
    textureLoad(a, vec2u(x, p.a_row + min(m + 2u, last))),
    textureLoad(a, vec2u(x, p.a_row + min(m + 3u, last))),
  );
}

struct Eight {
  low: vec4f,
  high: vec4f,
}

// Eight neighbouring codes: columns 8 c8 .. 8 c8 + 7 of a stored row, seen from p.b_row on.
fn codes(row: u32, c8: u32) -> Eight {
  let at = (p.b_row + min(row, rows_of_b() - 1u)) * p.b_pitch;
  if (FORMAT == F16) {
    let w = words4[at / 4u + c8];
    return Eight(halves(w.x, w.y), halves(w.z, w.w));
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

// Scales of a 4 x 4 block of op(B): of its columns if groups lie along k, else of its rows.
fn block_scales_at(k: u32, n4: u32) -> vec4f {
  if (TRANSPOSE_B) {
    return block_scales(n4 * 4u, k / 4u);
  }
  return block_scales(k, n4);
}

// Codes of rows k .. k+3 and columns n .. n+3 of op(B) times their scales; n4 may be one less, as eight columns
// lie in one group.
fn scaled(block: mat4x4f, column_scales: vec4f, k: u32, n4: u32) -> mat4x4f {
  if (FORMAT == F16) {
    return block;
  }
  if (ALONG_K) {
    return mat4x4f(
      block[0] * column_scales,
      block[1] * column_scales,
      block[2] * column_scales,
      block[3] * column_scales,
    );
  }
  let s = block_scales_at(k, n4);
  return mat4x4f(block[0] * s.x, block[1] * s.y, block[2] * s.z, block[3] * s.w);
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
    for (var k = k_group; k < k_end; k += 8u) {
      let row = select(k, n4 * 4u, TRANSPOSE_B);
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
      if (k + 4u < p.k) {
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
  // Blocks move to one place, from where they are stored: see store().
  for (var i = m; i < min(m + 16u, p.m); i += 4u) {
    store(c00, i, n4, p.c_row, p.c_col4);
    store(c01, i, n4 + 1u, p.c_row, p.c_col4);
    c00 = c10;
    c10 = c20;
    c20 = c30;
    c01 = c11;
    c11 = c21;
    c21 = c31;
  }
}
