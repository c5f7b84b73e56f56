// 3x3 convolution over maps with zero borders, with ReLU if RELU is set.
//
// x [batch, inputs * maps], weight [outputs, inputs * 9], bias [1, outputs], y [batch, outputs * maps];
// maps = height * width: channel c, place (i, j) is column (c * height + i) * width + j; tap (a, b) of
// input channel c is column c * 9 + a * 3 + b and reads place (i + a - 1, j + b - 1).
// One invocation per element of y, padding included. Accumulation rule: y is overwritten.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let column = id.x;
  let row = id.y;
  if (column >= p.y_pitch || row >= p.batch) {
    return;
  }
  let size = p.height * p.width;
  let channel = column / size;
  var sum = 0.0;
  if (channel < p.outputs) {
    let i = column % size / p.width;
    let j = column % p.width;
    sum = bias[channel];
    for (var c = 0u; c < p.inputs; c++) {
      for (var a = 0u; a < 3u; a++) {
        for (var b = 0u; b < 3u; b++) {
          // Below 0 wraps to a large number.
          let i2 = i + a - 1u;
          let j2 = j + b - 1u;
          if (i2 < p.height && j2 < p.width) {
            sum += weight[channel * p.weight_pitch + c * 9u + a * 3u + b]
              * x[row * p.x_pitch + (c * p.height + i2) * p.width + j2];
          }
        }
      }
    }
    if (RELU) {
      sum = max(sum, 0.0);
    }
  }
  y[row * p.y_pitch + column] = sum;
}
