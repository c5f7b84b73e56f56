// Causal softmax of attention scores, in place.
//
// scores [batch * length, heads * slots]: query t of a sequence in row t, head h in columns
// h * slots .. + length (slots = length rounded up to 4). Entries of keys after the query are
// undefined on entry and zero on return. log_sums [batch * length, heads]: log of the row's sum
// of exponentials, kept for the backward pass. Accumulation rule: outputs are overwritten.

override LANES: u32 = 1;
override ROWS: u32 = 8;

struct Parameters {
  rows: u32, // batch * length * heads
  length: u32,
  heads: u32,
  slots4: u32,
  log_pitch: u32,
}

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> log_sums: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> scratch: array<f32, LANES * ROWS>;

fn row_max(v: vec4f, lane: u32, slot: u32) -> f32 {
  let mine = max(max(v.x, v.y), max(v.z, v.w));
  if (LANES == 1u) {
    return mine;
  }
  let at = slot * LANES + lane;
  scratch[at] = mine;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      scratch[at] = max(scratch[at], scratch[at + half]);
    }
    workgroupBarrier();
  }
  let result = scratch[slot * LANES];
  workgroupBarrier();
  return result;
}

fn row_sum(v: vec4f, lane: u32, slot: u32) -> f32 {
  let mine = (v.x + v.y) + (v.z + v.w);
  if (LANES == 1u) {
    return mine;
  }
  let at = slot * LANES + lane;
  scratch[at] = mine;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      scratch[at] += scratch[at + half];
    }
    workgroupBarrier();
  }
  let result = scratch[slot * LANES];
  workgroupBarrier();
  return result;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let lane = local.x;
  let slot = local.y;
  let index = (workgroup.y * 32768u + workgroup.x) * ROWS + slot;
  let safe = min(index, p.rows - 1u);
  let head = safe % p.heads;
  let row = safe / p.heads;
  let query = row % p.length;
  let base = (row * p.heads + head) * p.slots4;
  let blocks = query / 4u + 1u; // vec4s that hold a key up to the query
  let lanes4 = vec4u(0u, 1u, 2u, 3u);

  var highest = vec4f(-1e30);
  for (var i = lane; i < blocks; i += LANES) {
    highest = max(highest, select(vec4f(-1e30), scores[base + i], vec4u(i * 4u) + lanes4 <= vec4u(query)));
  }
  let peak = row_max(highest, lane, slot);

  var total = vec4f();
  for (var i = lane; i < blocks; i += LANES) {
    total += select(vec4f(), exp(scores[base + i] - peak), vec4u(i * 4u) + lanes4 <= vec4u(query));
  }
  let sum = row_sum(total, lane, slot);

  if (index < p.rows) {
    for (var i = lane; i < p.slots4; i += LANES) {
      let kept = vec4u(i * 4u) + lanes4 <= vec4u(query);
      scores[base + i] = select(vec4f(), exp(scores[base + i] - peak) / sum, kept);
    }
    if (lane == 0u) {
      log_sums[row * p.log_pitch + head] = peak + log(sum);
    }
  }
}
