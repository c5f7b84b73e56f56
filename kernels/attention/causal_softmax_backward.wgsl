// From scores and dP to P and dS, both in place: P = exp(scores - log_sum) and
// dS = P * (dP - dot(do, o)) * scale, zero for keys after the query if causal, and before the window.
//
// scores, dp [batch * length, heads * slots]; log_sums [.., all_heads];
// o, do [.., all_heads * head_size]: the attention's output and its gradient. The scores are those of
// heads first_head .. and of rows first_row .. in these three.
// dot(do, o) of a head equals the row's sum of P * dP. Accumulation rule: overwritten.
//
// Two entry points: `rows` takes one row per invocation, for software adapters; `workgroups` shares
// a row among 64, for GPUs.

struct Parameters {
  rows: u32, // batch * length * heads
  length: u32,
  heads: u32,
  slots4: u32,
  log_pitch: u32,
  head_size4: u32,
  first_row: u32,
  first_head: u32,
  all_heads: u32,
  scale: f32,
  causal: u32, // 0: every query sees every key
  window: u32, // keys that a query sees at most
}

@group(0) @binding(0) var<storage, read_write> scores: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dp: array<vec4f>;
@group(0) @binding(2) var<storage, read> log_sums: array<f32>;
@group(0) @binding(3) var<storage, read> o: array<vec4f>;
@group(0) @binding(4) var<storage, read> d_o: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn backward(index: u32, lane: u32, lanes: u32) {
  if (index >= p.rows) {
    return;
  }
  let head = p.first_head + index % p.heads;
  let row = p.first_row + index / p.heads;
  let last = select(p.length - 1u, index / p.heads % p.length, p.causal == 1u);
  let lowest = last + 1u - min(last + 1u, p.window);

  // Every lane sums the whole head: head_size / 4 terms are cheaper than a barrier.
  var products = vec4f();
  let o_base = (row * p.all_heads + head) * p.head_size4;
  for (var i = 0u; i < p.head_size4; i++) {
    products += o[o_base + i] * d_o[o_base + i];
  }
  let mean = total(products);
  let log_sum = log_sums[row * p.log_pitch + head];

  let base = index * p.slots4;
  for (var i = lane; i < p.slots4; i += lanes) {
    let key = columns_of(i);
    let kept = (key >= vec4u(lowest)) & (key <= vec4u(last));
    let weight = select(vec4f(), exp(scores[base + i] - log_sum), kept);
    let slope = select(vec4f(), dp[base + i] - mean, kept);
    scores[base + i] = weight;
    dp[base + i] = weight * slope * p.scale;
  }
}

@compute @workgroup_size(8)
fn rows(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  backward(grid_index(workgroup, lane, 8u), 0u, 1u);
}

@compute @workgroup_size(64)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  backward(grid_index(workgroup, 0u, 1u), lane, 64u);
}
