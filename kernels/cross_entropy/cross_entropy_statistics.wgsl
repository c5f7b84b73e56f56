// Running softmax statistics of each row over one chunk of vocabulary columns.
//
// logits [rows, columns] holds vocabulary entries first .. first + columns; targets [1, rows];
// statistics [rows, 4] = (highest, sum of exp(x - highest), sum of x, logit of the target).
// Accumulation rule: continues from statistics, unless first is 0. Online: one pass per chunk.

override LANES: u32 = 1;
override ROWS: u32 = 8;

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
  first: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> statistics: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> scratch: array<vec4f, LANES * ROWS>;

// Joins the statistics of two disjoint sets of columns.
fn join(a: vec4f, b: vec4f) -> vec4f {
  let highest = max(a.x, b.x);
  return vec4f(highest, a.y * exp(a.x - highest) + b.y * exp(b.x - highest), a.z + b.z, a.w + b.w);
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let slot = local.y;
  let row = workgroup.x * ROWS + slot;
  let safe = min(row, p.rows - 1u);
  let base = safe * p.pitch4;
  let own = targets[safe] - p.first; // wraps to a large number if the target lies before the chunk
  let lanes4 = vec4u(0u, 1u, 2u, 3u);

  var highest = -1e30;
  var exponentials = vec4f();
  var plain = vec4f();
  var target_logit = 0.0;
  let blocks = (p.columns + 3u) / 4u;
  for (var i = lane; i < blocks; i += LANES) {
    let inside = vec4u(i * 4u) + lanes4 < vec4u(p.columns);
    let v = logits[base + i];
    let x = select(vec4f(-1e30), v, inside);
    let top = max(highest, max(max(x.x, x.y), max(x.z, x.w)));
    exponentials = exponentials * exp(highest - top) + select(vec4f(), exp(x - top), inside);
    highest = top;
    plain += select(vec4f(), v, inside);
    if (own / 4u == i) {
      target_logit = v[own % 4u];
    }
  }
  var result = vec4f(
    highest,
    (exponentials.x + exponentials.y) + (exponentials.z + exponentials.w),
    (plain.x + plain.y) + (plain.z + plain.w),
    target_logit,
  );
  if (LANES > 1u) {
    let at = slot * LANES + lane;
    scratch[at] = result;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
      if (lane < half) {
        scratch[at] = join(scratch[at], scratch[at + half]);
      }
      workgroupBarrier();
    }
    result = scratch[slot * LANES];
  }
  if (lane == 0u && row < p.rows) {
    if (p.first > 0u) {
      result = join(statistics[row], result);
    }
    statistics[row] = result;
  }
}
