// A matrix product C [m, n] = A [m, k] op(B) [k, n] with B of packed weights. Needs packed.wgsl.

override TRANSPOSE_B: bool = false;

struct Parameters {
  m: u32,          // rows of C
  n: u32,          // columns of C
  k: u32,          // inner length
  a_row: u32,      // first row of A
  a_col4: u32,     // first column of A / 4
  a_pitch4: u32,   // pitch of A / 4; not used where A is a texture
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

@group(1) @binding(0) var<uniform> p: Parameters;

// Stored rows of B that take part, seen from p.b_row on.
fn rows_of_b() -> u32 {
  return select(p.k, p.n, TRANSPOSE_B);
}

// Scales of a 4 x 4 block of the stored B from (row, 4 c4) on, rows seen from p.b_row on; a block lies in one group
// of its direction. With groups along the columns one a row, else one a column.
fn block_scales(row: u32, c4: u32) -> vec4f {
  if (FORMAT == F16) {
    return vec4f(1.0);
  }
  let last = rows_of_b() - 1u;
  let first = p.b_row + p.s_row;
  if (ALONG_ROWS) {
    let at = (first + min(row, last)) / GROUP * p.s_pitch + min(c4 * 4u, p.s_pitch - 4u);
    return vec4f(scales[at], scales[at + 1u], scales[at + 2u], scales[at + 3u]);
  }
  let group = c4 * 4u / GROUP;
  return vec4f(
    scales[(first + min(row, last)) * p.s_pitch + group],
    scales[(first + min(row + 1u, last)) * p.s_pitch + group],
    scales[(first + min(row + 2u, last)) * p.s_pitch + group],
    scales[(first + min(row + 3u, last)) * p.s_pitch + group],
  );
}
