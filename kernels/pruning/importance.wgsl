// Importance of the heads after a step: the gradient map G scaled to [0, 1] and smoothed along the steps.
//
// gradient, previous, g, s [layers, heads]; observed [layers, heads] u32: 0 where the step has shown
// nothing, such as a pruned head. Accumulation rule: overwritten.
//
// g = (gradient - lowest) / (highest - lowest) over the observed heads, 0 for the others and if flat.
// s = now * g + before * previous for observed heads. The others hold their previous value and drift
// by `recovery` to the mean of their layer's observed heads, or of all if their layer has none.
//
// One invocation per layer. Each looks at the whole map: a few thousand reads are cheaper than a barrier.

struct Parameters {
  layers: u32,
  heads: u32,
  pitch: u32,
  now: f32,
  before: f32,
  recovery: f32,
  zero: u32, // 0, see rounded()
}

@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read> observed: array<u32>;
@group(0) @binding(2) var<storage, read> previous: array<f32>;
@group(0) @binding(3) var<storage, read_write> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> s: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

const LARGEST = 3.4028234e38;

struct Range {
  lowest: f32,
  highest: f32,
}

fn observed_range() -> Range {
  var range = Range(LARGEST, -LARGEST);
  for (var layer = 0u; layer < p.layers; layer++) {
    for (var head = 0u; head < p.heads; head++) {
      let at = layer * p.pitch + head;
      if (observed[at] != 0u) {
        range.lowest = min(range.lowest, gradient[at]);
        range.highest = max(range.highest, gradient[at]);
      }
    }
  }
  return range;
}

fn normalised(at: u32, range: Range) -> f32 {
  if (observed[at] == 0u || range.highest <= range.lowest) {
    return 0.0;
  }
  return (gradient[at] - range.lowest) / (range.highest - range.lowest);
}

// Rounds a product now: compilers may join a product and a sum, but not through the bits of an
// integer that they do not know.
fn rounded(product: f32) -> f32 {
  return bitcast<f32>(bitcast<u32>(product) ^ p.zero);
}

fn smoothed(at: u32, range: Range) -> f32 {
  return rounded(p.now * normalised(at, range)) + rounded(p.before * previous[at]);
}

// Sum of s over the observed heads of a layer, and their number.
fn observed_sum(layer: u32, range: Range) -> vec2f {
  var sum = vec2f();
  for (var head = 0u; head < p.heads; head++) {
    let at = layer * p.pitch + head;
    if (observed[at] != 0u) {
      sum += vec2f(smoothed(at, range), 1.0);
    }
  }
  return sum;
}

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let layer = id.x;
  if (layer >= p.layers) {
    return;
  }
  let range = observed_range();
  var sum = observed_sum(layer, range);
  if (sum.y == 0.0) {
    for (var other = 0u; other < p.layers; other++) {
      sum += observed_sum(other, range);
    }
  }
  for (var head = 0u; head < p.pitch; head++) {
    let at = layer * p.pitch + head;
    if (head >= p.heads) {
      g[at] = 0.0; // padding
      s[at] = 0.0;
    } else if (observed[at] != 0u) {
      g[at] = normalised(at, range);
      s[at] = smoothed(at, range);
    } else {
      g[at] = 0.0;
      s[at] = previous[at];
      if (sum.y > 0.0) {
        s[at] += p.recovery * (sum.x / sum.y - previous[at]);
      }
    }
  }
}
