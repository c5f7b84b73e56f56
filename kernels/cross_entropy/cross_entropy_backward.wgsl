// Gradient of the loss by the logits of one chunk of the vocabulary, in place:
// dx = weight * (exp(x - log_sum) - (1 - s) * [x is the target] - s / V).
//
// logits [rows, columns] holds vocabulary entries first .. first + columns and is overwritten;
// targets, weights [1, rows]; statistics [rows, 4] over the whole vocabulary.

struct Parameters {
  rows: u32,
  columns: u32,
  pitch4: u32,
  first: u32,
  vocabulary: u32,
  smoothing: f32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> statistics: array<vec4f>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  let row = id.y;
  if (i >= p.pitch4 || row >= p.rows) {
    return;
  }
  let s = statistics[row];
  let at = row * p.pitch4 + i;
  let probability = exp(logits[at] - s.x) / s.y;
  let hit = select(vec4f(), vec4f(1.0 - p.smoothing), columns_of(i) + p.first == vec4u(targets[row]));
  let d = weights[row] * (probability - hit - p.smoothing / f32(p.vocabulary));
  logits[at] = select(vec4f(), d, inside(i, p.columns));
}
