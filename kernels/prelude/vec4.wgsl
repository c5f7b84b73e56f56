// Rows in groups of four columns.

// Sum of the four.
fn total(v: vec4f) -> f32 {
  return (v.x + v.y) + (v.z + v.w);
}

// Columns 4 i .. 4 i + 3.
fn columns_of(i: u32) -> vec4u {
  return vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u);
}

// Which of columns 4 i .. 4 i + 3 are not padding of rows with so many columns.
fn inside(i: u32, columns: u32) -> vec4<bool> {
  return columns_of(i) < vec4u(columns);
}
