// dweight += and dbias += gradients of conv3x3's weight and bias; see there for the layout.
//
// With RELU, dy counts where y is above 0. One invocation per weight, and one per output channel for the
// bias: it takes the place after the last tap. No atomics: the same bits every time.
// Accumulation rule: dweight and dbias are added to; padding stays.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let tap = id.x;
  let channel = id.y;
  let taps = p.inputs * 9u;
  if (tap > taps || channel >= p.outputs) {
    return;
  }
  let is_bias = tap == taps;
  let c = tap / 9u;
  let a = tap % 9u / 3u;
  let b = tap % 3u;
  var sum = 0.0;
  for (var row = 0u; row < p.batch; row++) {
    for (var i = 0u; i < p.height; i++) {
      for (var j = 0u; j < p.width; j++) {
        let out = row * p.y_pitch + (channel * p.height + i) * p.width + j;
        if (RELU && y[out] <= 0.0) {
          continue;
        }
        if (is_bias) {
          sum += dy[out];
          continue;
        }
        let i2 = i + a - 1u;
        let j2 = j + b - 1u;
        if (i2 < p.height && j2 < p.width) {
          sum += dy[out] * x[row * p.x_pitch + (c * p.height + i2) * p.width + j2];
        }
      }
    }
  }
  if (is_bias) {
    dbias[channel] += sum;
  } else {
    dweight[channel * p.weight_pitch + tap] += sum;
  }
}
