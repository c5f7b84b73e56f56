// C = epilogue(alpha * op(A) op(B)), operands in storage textures: the form for software adapters.
//
// op(A) [m, k], op(B) [k, n], C [m, n] f32; batched over z = (group, head), see prelude/matmul.wgsl.
// A is stored [m, k], or [k, m] if TRANSPOSE_A; B is stored [k, n], or [n, k] if TRANSPOSE_B.
// Texel (x, y) of an operand holds elements 4x .. 4x+3 of row y.
//
// One invocation computes 16 rows x 8 columns of C in eight named mat4x4f: four rows of C each,
// as columns of the matrix, so that c += b * a adds a 4x4 block of the product. Named variables
// stay in registers; indexed arrays would not. Lanes of a workgroup lie along n, workgroup_id.x
// walks m, so neighbours share a panel of B in the cache.
//
// Where the last blocks of m, n or k go past the matrices, the last rows and columns are read again. What comes of
// that past m and n is not stored; past k op(A) counts as zero: its padding is, and rows are left out.
//
// Accumulation rule: C is overwritten, unless ACCUMULATE is set. Sums run over k in order.

@group(0) @binding(0) var a: texture_storage_2d<rgba32float, read>;
@group(0) @binding(1) var b: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4f>;
@group(0) @binding(3) var<storage, read> bias: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> aux: array<vec4f>;

// Rows m .. m+3 of op(A) as columns of a matrix, elements k .. k+3 of each.
fn load_a(m: u32, k: u32, row: u32, col4: u32) -> mat4x4f {
  if (TRANSPOSE_A) {
    let x = col4 + min(m, p.m - 1u) / 4u;
    let y = row + k;
    let left = p.k - 1u - k;
    return transpose(mat4x4f(
      textureLoad(a, vec2u(x, y)),
      select(vec4f(), textureLoad(a, vec2u(x, y + min(1u, left))), left >= 1u),
      select(vec4f(), textureLoad(a, vec2u(x, y + min(2u, left))), left >= 2u),
      select(vec4f(), textureLoad(a, vec2u(x, y + min(3u, left))), left >= 3u),
    ));
  }
  let x = col4 + k / 4u;
  let last = p.m - 1u;
  return mat4x4f(
    textureLoad(a, vec2u(x, row + min(m, last))),
    textureLoad(a, vec2u(x, row + min(m + 1u, last))),
    textureLoad(a, vec2u(x, row + min(m + 2u, last))),
    textureLoad(a, vec2u(x, row + min(m + 3u, last))),
  );
}

// Rows k .. k+3 of op(B) as columns of a matrix, elements n .. n+3 of each.
fn load_b(k: u32, n4: u32, row: u32, col4: u32) -> mat4x4f {
  if (TRANSPOSE_B) {
    let x = col4 + k / 4u;
    let n = n4 * 4u;
    let last = p.n - 1u;
    return transpose(mat4x4f(
      textureLoad(b, vec2u(x, row + min(n, last))),
      textureLoad(b, vec2u(x, row + min(n + 1u, last))),
      textureLoad(b, vec2u(x, row + min(n + 2u, last))),
      textureLoad(b, vec2u(x, row + min(n + 3u, last))),
    ));
  }
  let x = col4 + min(n4, (p.n - 1u) / 4u);
  let last = p.k - 1u;
  return mat4x4f(
    textureLoad(b, vec2u(x, row + k)),
    textureLoad(b, vec2u(x, row + min(k + 1u, last))),
    textureLoad(b, vec2u(x, row + min(k + 2u, last))),
    textureLoad(b, vec2u(x, row + min(k + 3u, last))),
  );
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let m = workgroup.x * 16u;
  let n4 = (workgroup.y * 8u + lane.x) * 2u;
  if (n4 * 4u >= p.n || (p.causal == CAUSAL_SKIP && workgroup.y * 64u > m + 15u)) {
    return;
  }
  let o = origins_of(workgroup.z);
  let range = inner_range(m, m + 16u);

  var c00 = mat4x4f();
  var c10 = mat4x4f();
  var c20 = mat4x4f();
  var c30 = mat4x4f();
  var c01 = mat4x4f();
  var c11 = mat4x4f();
  var c21 = mat4x4f();
  var c31 = mat4x4f();
  for (var k = range.x; k < range.y; k += 4u) {
    let b0 = load_b(k, n4, o.b_row, o.b_col4);
    let b1 = load_b(k, n4 + 1u, o.b_row, o.b_col4);
    let a0 = load_a(m, k, o.a_row, o.a_col4);
    c00 += b0 * a0;
    c01 += b1 * a0;
    let a1 = load_a(m + 4u, k, o.a_row, o.a_col4);
    c10 += b0 * a1;
    c11 += b1 * a1;
    let a2 = load_a(m + 8u, k, o.a_row, o.a_col4);
    c20 += b0 * a2;
    c21 += b1 * a2;
    let a3 = load_a(m + 12u, k, o.a_row, o.a_col4);
    c30 += b0 * a3;
    c31 += b1 * a3;
  }
  // Blocks move to one place, from where they are stored: see store().
  for (var i = m; i < min(m + 16u, p.m); i += 4u) {
    store(c00, i, n4, o.c_row, o.c_col4);
    store(c01, i, n4 + 1u, o.c_row, o.c_col4);
    c00 = c10;
    c10 = c20;
    c20 = c30;
    c01 = c11;
    c11 = c21;
    c21 = c31;
  }
}
