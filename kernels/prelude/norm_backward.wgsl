// Bindings and parameters of kernels that take a norm's gradient to its input.

override ACCUMULATE: bool = false;

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<vec4f>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn row_count() -> u32 {
  return p.rows;
}
