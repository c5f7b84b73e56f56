// What is done to sums of a matrix product before they are stored in C. Needs gelu.wgsl and vec4.wgsl; the kernel
// has the buffers c, bias and aux and the parameters m, n, c_pitch4, aux_pitch4, n_first4 and alpha.

// A constant and not a parameter: software adapters run both sides of a branch.
override EPILOGUE: u32 = 0;

const BIAS = 1u;        // + bias[n]
const GELU = 2u;        // aux = the sum so far; C = gelu of it
const RESIDUAL = 4u;    // + aux
const GELU_GRAD = 8u;   // * gelu'(aux)
const ACCUMULATE = 16u; // C += instead of C =
const PARTIAL = 32u;    // C holds the sum over an earlier part of k: goes on from it, before the rest

// Stores columns 4 n4 .. 4 n4 + 3 of row m; row 0 of C is row `row` of the buffer, its column 0 in vec4 `col4`.
fn store_row(sum: vec4f, m: u32, n4: u32, row: u32, col4: u32) {
  let at = (row + m) * p.c_pitch4 + col4 + n4;
  let aux_at = (row + m) * p.aux_pitch4 + p.n_first4 + n4;
  var v = sum * p.alpha;
  if ((EPILOGUE & PARTIAL) != 0u) {
    v += c[at];
  }
  if ((EPILOGUE & BIAS) != 0u) {
    v += bias[p.n_first4 + n4];
  }
  if ((EPILOGUE & GELU) != 0u) {
    aux[aux_at] = v;
    v = gelu(v);
  }
  if ((EPILOGUE & RESIDUAL) != 0u) {
    v += aux[aux_at];
  }
  if ((EPILOGUE & GELU_GRAD) != 0u) {
    v *= gelu_grad(aux[aux_at]);
  }
  if ((EPILOGUE & ACCUMULATE) != 0u) {
    v += c[at];
  }
  c[at] = select(vec4f(), v, inside(n4, p.n)); // keeps the padding zero
}

// Stores rows m .. m + 3, which are the columns of the block. A loop, as a compiler takes its time for the epilogue;
// the next row moves to a place that is known, as it would not stay in registers if it was found by number.
fn store(block: mat4x4f, m: u32, n4: u32, row: u32, col4: u32) {
  if (n4 * 4u >= p.n) {
    return;
  }
  var rows = block;
  for (var i = m; i < min(m + 4u, p.m); i++) {
    store_row(rows[0], i, n4, row, col4);
    rows = mat4x4f(rows[1], rows[2], rows[3], rows[3]);
  }
}
