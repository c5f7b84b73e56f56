// C = epilogue(alpha * A op(B)), B of packed weights: the form for real GPUs.
//
// A [m, k] f32; op(B) [k, n], stored [k, n], or [n, k] if TRANSPOSE_B, as packed words and scales
// (packed/formats.ts); C [m, n] f32. Weights are unpacked to f32 as a panel is brought to workgroup memory:
// code * scale. The rest is as in matmul_tiled.wgsl, with the same tiles.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order, in f32.

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(4) var<storage, read> bias: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> aux: array<vec4f>;

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

// Elements (k, n .. n+3) for k .. k+3 of op(B); zero outside [k, n].
fn load_b(n: u32, k: u32) -> mat4x4f {
  var block = mat4x4f();
  if (n >= p.n || k >= p.k) {
    return block;
  }
  let first = select(k, n, TRANSPOSE_B);
  let c4 = select(n, k, TRANSPOSE_B) / 4u;
  let s = block_scales(first, c4);
  for (var i = 0u; i < 4u; i++) {
    if (first + i < rows_of_b()) {
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
      put_a(at, load_a(m0 + at.y * 4u, k0 + at.x * 4u));
    }
    for (var block = lane; block < 8u * TILE_N4; block += INVOCATIONS) {
      let at = place(block, TILE_N4, TRANSPOSE_B);
      put_b(at, load_b(n0 + at.y * 4u, k0 + at.x * 4u));
    }
    workgroupBarrier();
    sum = multiply_panels(sum, tx, ty);
    workgroupBarrier();
  }
  store(sum, m0 + ty * 4u, n0 / 4u + tx, p.c_row, p.c_col4);
}
