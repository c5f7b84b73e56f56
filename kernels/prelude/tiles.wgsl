// Panels of 32 inner elements in workgroup memory, of which each invocation multiplies 4 x 4.

// Rows and columns of a tile / 4.
override TILE_M4: u32 = 16;
override TILE_N4: u32 = 16;
override A_PANEL = 32u * TILE_M4;
override B_PANEL = 32u * TILE_N4;
override INVOCATIONS = TILE_M4 * TILE_N4;

var<workgroup> a_panel: array<vec4f, A_PANEL>; // [32 inner][TILE_M4 groups of four rows]
var<workgroup> b_panel: array<vec4f, B_PANEL>; // [32 inner][TILE_N4 groups of four columns]

// Where in a panel of 32 inner elements the block lies: (inner, outer) / 4. Along memory first, so
// that neighbours read neighbours.
fn place(block: u32, outer: u32, inner_first: bool) -> vec2u {
  if (inner_first) {
    return vec2u(block % 8u, block / 8u);
  }
  return vec2u(block / outer, block % outer);
}

// Puts a block of op(A)^T or of op(B) in its place of a panel.
fn put_a(at: vec2u, block: mat4x4f) {
  for (var i = 0u; i < 4u; i++) {
    a_panel[(at.x * 4u + i) * TILE_M4 + at.y] = block[i];
  }
}

fn put_b(at: vec2u, block: mat4x4f) {
  for (var i = 0u; i < 4u; i++) {
    b_panel[(at.x * 4u + i) * TILE_N4 + at.y] = block[i];
  }
}

// The sum with the products of the panels: rows 4 ty .. as columns of the matrix, columns 4 tx .. of each.
fn multiply_panels(sum: mat4x4f, tx: u32, ty: u32) -> mat4x4f {
  var all = sum;
  for (var k = 0u; k < 32u; k++) {
    let a = a_panel[k * TILE_M4 + ty];
    let b = b_panel[k * TILE_N4 + tx];
    all += mat4x4f(b * a.x, b * a.y, b * a.z, b * a.w);
  }
  return all;
}
