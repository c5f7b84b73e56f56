// Softmax of attention scores, in place; causal if asked for, and within a window of so many keys.
//
// scores [batch * length, heads * slots]: query t of a sequence, at position first + t, in row t, head
// h in columns h * slots .. (slots: keys, rounded up to 4). If causal, entries of keys after the query
// are undefined on entry and zero on return, as are those of keys before the window: a query sees itself
// and the window - 1 keys before it. log_sums [.., all_heads]: log of the row's sum of
// exponentials, kept for the backward pass; the scores are those of heads first_head .. and of rows
// first_row .. in it. Accumulation rule: outputs are overwritten.
//
// Two entry points: `rows` takes one row per invocation, for software adapters; `workgroups` shares
// a row among 64, for GPUs.

struct Parameters {
  rows: u32, // batch * length * heads
  length: u32,
  first: u32,
  heads: u32,
  slots4: u32,
  log_pitch: u32,
  first_row: u32,
  first_head: u32,
  all_heads: u32,
  causal: u32, // 0: every query sees every key
  window: u32, // keys that a query sees at most
}

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> log_sums: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

alias Summed = f32;

var<workgroup> maxima: array<f32, LANES>;

// One (query, head).
struct Row {
  base: u32,  // its first vec4 of scores
  lowest: u32, // first key that the query sees
  last: u32,   // last one
  log_at: u32,
}

fn row_of(index: u32) -> Row {
  let head = index % p.heads;
  let token = index / p.heads;
  let log_at = (p.first_row + token) * p.log_pitch + p.first_head + head;
  let last = select(p.length - 1u, p.first + token % p.length, p.causal == 1u);
  return Row(index * p.slots4, last + 1u - min(last + 1u, p.window), last, log_at);
}

fn kept(i: u32, row: Row) -> vec4<bool> {
  let key = columns_of(i);
  return (key >= vec4u(row.lowest)) & (key <= vec4u(row.last));
}

fn highest_of(row: Row, lane: u32, lanes: u32) -> f32 {
  var highest = vec4f(-1e30);
  for (var i = row.lowest / 4u + lane; i <= row.last / 4u; i += lanes) {
    highest = max(highest, select(vec4f(-1e30), scores[row.base + i], kept(i, row)));
  }
  return max(max(highest.x, highest.y), max(highest.z, highest.w));
}

// Replaces scores by exponentials and returns their sum.
fn exponentials_of(row: Row, highest: f32, lane: u32, lanes: u32) -> f32 {
  var sum = vec4f();
  for (var i = row.lowest / 4u + lane; i <= row.last / 4u; i += lanes) {
    let e = select(vec4f(), exp(scores[row.base + i] - highest), kept(i, row));
    scores[row.base + i] = e;
    sum += e;
  }
  return total(sum);
}

fn write(row: Row, highest: f32, sum: f32, lane: u32, lanes: u32) {
  let scale = 1.0 / sum;
  for (var i = lane; i < p.slots4; i += lanes) {
    scores[row.base + i] = select(vec4f(), scores[row.base + i] * scale, kept(i, row));
  }
  if (lane == 0u) {
    log_sums[row.log_at] = highest + log(sum);
    let last_head = row.log_at % p.log_pitch + 1u == p.all_heads;
    for (var at = row.log_at + 1u; last_head && at % p.log_pitch != 0u; at++) {
      log_sums[at] = 0.0; // padding
    }
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = grid_index(workgroup, lane, 8u);
  if (index >= p.rows) {
    return;
  }
  let row = row_of(index);
  let highest = highest_of(row, 0u, 1u);
  write(row, highest, exponentials_of(row, highest, 0u, 1u), 0u, 1u);
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = grid_index(workgroup, 0u, 1u);
  let row = row_of(min(index, p.rows - 1u));
  maxima[lane] = highest_of(row, lane, LANES);
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      maxima[lane] = max(maxima[lane], maxima[lane + half]);
    }
    workgroupBarrier();
  }
  let highest = maxima[0];
  // A workgroup past the last row only computes what the last row's does, and writes nothing.
  var mine = 0.0;
  if (index < p.rows) {
    mine = exponentials_of(row, highest, lane, LANES);
  }
  let sum = workgroup_sum(mine, lane);
  if (index < p.rows) {
    write(row, highest, sum, lane, LANES);
  }
}
