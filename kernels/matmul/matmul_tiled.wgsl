// C = epilogue(alpha * op(A) op(B)), operands in storage buffers: the form for real GPUs.
//
// op(A) [m, k], op(B) [k, n], C [m, n] f32; batched over z = (group, head), see prelude/matmul.wgsl.
// A is stored [m, k], or [k, m] if TRANSPOSE_A; B is stored [k, n], or [n, k] if TRANSPOSE_B.
//
// A workgroup computes a tile of C, 4 x 4 an invocation, from panels of 32 inner elements in
// workgroup memory (prelude/tiles.wgsl). Invocations bring 4x4 blocks of A and of B, transposed if need be,
// so panels always hold four neighbours along m or n in one vec4f. Which tile is fastest is measured
// (tiles.ts); all of them give the same bits.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order.

@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> aux: array<vec4f>;

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

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = workgroup.y * TILE_M4 * 4u;
  let n0 = workgroup.x * TILE_N4 * 4u;
  let m_end = m0 + TILE_M4 * 4u;
  if (p.causal == CAUSAL_SKIP && n0 >= m_end) {
    return;
  }
  let o = origins_of(workgroup.z);
  let range = inner_range(m0, m_end);
  let tx = lane % TILE_N4; // four columns of C
  let ty = lane / TILE_N4; // four rows of C

  var sum = mat4x4f();
  for (var k0 = range.x; k0 < range.y; k0 += 32u) {
    for (var block = lane; block < 8u * TILE_M4; block += INVOCATIONS) {
      let at = place(block, TILE_M4, !TRANSPOSE_A);
      put_a(at, load_a(m0 + at.y * 4u, k0 + at.x * 4u, o.a_row, o.a_col4));
    }
    for (var block = lane; block < 8u * TILE_N4; block += INVOCATIONS) {
      let at = place(block, TILE_N4, TRANSPOSE_B);
      put_b(at, load_b(n0 + at.y * 4u, k0 + at.x * 4u, o.b_row, o.b_col4));
    }
    workgroupBarrier();
    sum = multiply_panels(sum, tx, ty);
    workgroupBarrier();
  }
  store(sum, m0 + ty * 4u, n0 / 4u + tx, o.c_row, o.c_col4);
}
