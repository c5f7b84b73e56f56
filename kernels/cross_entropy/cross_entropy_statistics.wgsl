// Running softmax statistics of each row over one chunk of vocabulary columns.
//
// logits [rows, columns] holds vocabulary entries first .. first + columns; targets [1, rows];
// statistics [rows, 4] = (highest, sum of exp(x - highest), sum of x, logit of the target).
// Accumulation rule: continues from statistics, unless first is 0. Online: one pass per chunk.
//
// Two entry points: `rows` takes one row per invocation, for software adapters; `workgroups` shares
// a row among 64, for GPUs.

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

const LANES = 64u;
var<workgroup> scratch: array<vec4f, LANES>;

// Joins the statistics of two disjoint sets of columns.
fn join(a: vec4f, b: vec4f) -> vec4f {
  let highest = max(a.x, b.x);
  return vec4f(highest, a.y * exp(a.x - highest) + b.y * exp(b.x - highest), a.z + b.z, a.w + b.w);
}

fn statistics_of(row: u32, lane: u32, lanes: u32) -> vec4f {
  let base = row * p.pitch4;
  let own = targets[row] - p.first; // wraps to a large number if the target lies before the chunk
  var highest = -1e30;
  var exponentials = vec4f();
  var plain = vec4f();
  for (var i = lane; i * 4u < p.columns; i += lanes) {
    let counts = inside(i, p.columns);
    let x = select(vec4f(-1e30), logits[base + i], counts);
    let top = max(highest, max(max(x.x, x.y), max(x.z, x.w)));
    exponentials = exponentials * exp(highest - top) + exp(x - top);
    highest = top;
    plain += select(vec4f(), x, counts);
  }
  var target_logit = 0.0;
  if (lane == 0u && own < p.columns) {
    target_logit = logits[base + own / 4u][own % 4u];
  }
  return vec4f(
    highest,
    total(exponentials),
    total(plain),
    target_logit,
  );
}

fn write(row: u32, found: vec4f) {
  if (p.first > 0u) {
    statistics[row] = join(statistics[row], found);
  } else {
    statistics[row] = found;
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.rows) {
    return;
  }
  write(id.x, statistics_of(id.x, 0u, 1u));
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  scratch[lane] = statistics_of(workgroup.x, lane, LANES);
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      scratch[lane] = join(scratch[lane], scratch[lane + half]);
    }
    workgroupBarrier();
  }
  if (lane == 0u) {
    write(workgroup.x, scratch[0]);
  }
}
