// A matrix product C [m, n] = op(A) [m, k] op(B) [k, n], batched over z = (group, head).

override TRANSPOSE_A: bool = false;
override TRANSPOSE_B: bool = false;

struct Parameters {
  m: u32,            // rows of C
  n: u32,            // columns of C
  k: u32,            // inner length
  heads: u32,        // z = group * heads + head
  a_row: u32,        // first row of the stored A
  a_group_rows: u32, // rows of the stored A from one group to the next
  a_pitch4: u32,     // pitch of the stored A / 4; not used where A is a texture
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

@group(1) @binding(0) var<uniform> p: Parameters;

const CAUSAL_SKIP = 1u;    // tiles wholly above the diagonal (n > m) are not computed
const CAUSAL_K_END = 2u;   // op(A) is zero where k > m: the sum may end after the tile's last row
const CAUSAL_K_START = 3u; // op(A) is zero where k < m: the sum may start at the tile's first row

// Where the matrices of one (group, head) begin: rows, and columns / 4.
struct Origins {
  a_row: u32,
  a_col4: u32,
  b_row: u32,
  b_col4: u32,
  c_row: u32,
  c_col4: u32,
}

fn origins_of(z: u32) -> Origins {
  let group = z / p.heads;
  let head = z % p.heads;
  return Origins(
    p.a_row + group * p.a_group_rows,
    p.a_col4 + head * p.a_head_cols4,
    p.b_row + group * p.b_group_rows,
    p.b_col4 + head * p.b_head_cols4,
    p.c_row + group * p.c_group_rows,
    p.c_col4 + head * p.c_head_cols4,
  );
}

// Inner elements that count for rows m_first .. m_end of C: from x to y.
fn inner_range(m_first: u32, m_end: u32) -> vec2u {
  return vec2u(
    select(0u, m_first, p.causal == CAUSAL_K_START),
    select(p.k, min(p.k, m_end), p.causal == CAUSAL_K_END),
  );
}
