// Comprehensive importance (Eq. 29), greedy pruning (Eq. 30) and the layer-wise rule, layer by layer.
//
// s_base, mask, s_comp [layers, heads]; owner [1, heads] u32: the device of each head;
// weights [devices, ..]: weights[m, n] is the factor of device m's heads once it has lost n of a layer;
// lost [layers, devices] u32: how many it has lost. mask is 1 for pruned heads.
// Accumulation rule: overwritten.
//
// While the sum of s_base over a layer's kept heads is above tau times its full sum, the head with
// the smallest s_base * weight goes, the first one on ties. A layer that has lost more than
// most_pruned heads loses the others too. s_comp is the importance before any head went.
//
// One invocation per layer. Products are compared and sums are taken in order, each rounded once, so
// that every machine decides alike.

struct Parameters {
  layers: u32,
  heads: u32,
  pitch: u32,        // of s_base, mask and s_comp
  weight_pitch: u32,
  lost_pitch: u32,
  most_pruned: u32,  // heads that a layer may lose before it goes whole
  tau: f32,
}

@group(0) @binding(0) var<storage, read> s_base: array<f32>;
@group(0) @binding(1) var<storage, read> owner: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> mask: array<f32>;
@group(0) @binding(4) var<storage, read_write> s_comp: array<f32>;
@group(0) @binding(5) var<storage, read_write> lost: array<u32>;
@group(1) @binding(0) var<uniform> p: Parameters;

const LARGEST = 3.4028234e38;
const NONE = 0xffffffffu;

// S_comp of a head as it is now (Eq. 29).
fn importance(layer: u32, head: u32) -> f32 {
  let device = owner[head];
  let weight = weights[device * p.weight_pitch + lost[layer * p.lost_pitch + device]];
  return s_base[layer * p.pitch + head] * weight;
}

// Sum of s_base over the kept heads.
fn remaining(layer: u32) -> f32 {
  var sum = 0.0;
  for (var head = 0u; head < p.heads; head++) {
    let at = layer * p.pitch + head;
    if (mask[at] == 0.0) {
      sum += s_base[at];
    }
  }
  return sum;
}

// The kept head with the smallest S_comp; none if all overflow.
fn least_important(layer: u32) -> u32 {
  var least = NONE;
  var smallest = LARGEST;
  for (var head = 0u; head < p.heads; head++) {
    let value = importance(layer, head);
    let smaller = value < smallest || (least == NONE && value == smallest);
    if (mask[layer * p.pitch + head] == 0.0 && smaller) {
      least = head;
      smallest = value;
    }
  }
  return least;
}

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let layer = id.x;
  if (layer >= p.layers) {
    return;
  }
  for (var device = 0u; device < p.lost_pitch; device++) {
    lost[layer * p.lost_pitch + device] = 0u;
  }
  for (var head = 0u; head < p.pitch; head++) {
    mask[layer * p.pitch + head] = 0.0;
    s_comp[layer * p.pitch + head] = 0.0;
  }
  for (var head = 0u; head < p.heads; head++) {
    s_comp[layer * p.pitch + head] = importance(layer, head);
  }

  let limit = p.tau * remaining(layer);
  var pruned = 0u;
  while (remaining(layer) > limit) {
    let head = least_important(layer);
    if (head == NONE) {
      break;
    }
    mask[layer * p.pitch + head] = 1.0;
    lost[layer * p.lost_pitch + owner[head]] += 1u;
    pruned++;
  }
  if (pruned > p.most_pruned) {
    for (var head = 0u; head < p.heads; head++) {
      mask[layer * p.pitch + head] = 1.0;
    }
  }
}
