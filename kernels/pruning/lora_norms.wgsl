// Norms of what head modules add to their layer: out[first + h] = scale * sqrt(sum over targets of ||B A||_F^2).
//
// arena [1, heads * segment]: for each head its targets one after the other, each A [rank4 * 4, inputs] then
// B [outputs, rank4 * 4], rows padded with zeros to vec4s. Accumulation rule: overwritten.
//
// ||B A||_F^2 = sum over (i, j) of (A A^T)[i, j] * (B^T B)[i, j]: B A itself is never made. In blocks of 4 x 4; past the
// rank both are zero.

fn row_count() -> u32 {
  return p.heads;
}

alias Summed = f32;

struct Parameters {
  heads: u32,
  targets: u32,
  rank4: u32,    // vec4s of a row of B
  inputs4: u32,  // vec4s of a row of A
  outputs: u32,
  segment4: u32, // vec4s from one head to the next
  first: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> arena: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Rows 4 i .. 4 i + 3 of A at `a`, four columns of each.
fn load_rows(a: u32, i: u32, c: u32) -> mat4x4f {
  let at = a + i * 4u * p.inputs4 + c;
  return mat4x4f(arena[at], arena[at + p.inputs4], arena[at + 2u * p.inputs4], arena[at + 3u * p.inputs4]);
}

// Block (4 i, 4 j) of A A^T, of the A that begins at `a`.
fn rows_product(a: u32, i: u32, j: u32) -> mat4x4f {
  var sum = mat4x4f();
  for (var c = 0u; c < p.inputs4; c++) {
    sum += transpose(load_rows(a, j, c)) * load_rows(a, i, c);
  }
  return sum;
}

// Block (4 i, 4 j) of B^T B, of the B that begins at `b`.
fn columns_product(b: u32, i: u32, j: u32) -> mat4x4f {
  var sum = mat4x4f();
  for (var row = 0u; row < p.outputs; row++) {
    let u = arena[b + row * p.rank4 + i];
    let v = arena[b + row * p.rank4 + j];
    sum += mat4x4f(v * u.x, v * u.y, v * u.z, v * u.w);
  }
  return sum;
}

fn sums_of(head: u32, lane: u32, lanes: u32) -> f32 {
  let a_size = p.rank4 * 4u * p.inputs4;
  let b_size = p.outputs * p.rank4;
  let blocks = p.rank4 * p.rank4;
  var sum = vec4f();
  for (var n = lane; n < p.targets * blocks; n += lanes) {
    let a = head * p.segment4 + n / blocks * (a_size + b_size);
    let i = n % blocks / p.rank4;
    let j = n % p.rank4;
    let x = rows_product(a, i, j);
    let y = columns_product(a + a_size, i, j);
    sum += x[0] * y[0] + x[1] * y[1] + x[2] * y[2] + x[3] * y[3];
  }
  return total(sum);
}

fn write(head: u32, squares: f32, lane: u32, lanes: u32) {
  if (lane > 0u) {
    return;
  }
  out[p.first + head] = p.scale * sqrt(max(squares, 0.0)); // rounding may leave a little less than zero
}
