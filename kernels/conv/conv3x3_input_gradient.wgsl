// dx (+)= gradient of conv3x3's input; see there for the layout.
//
// With RELU, dy counts where y is above 0. One invocation per element of dx, padding included.
// Accumulation rule: dx is overwritten, or added to if accumulate is 1.

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let column = id.x;
  let row = id.y;
  if (column >= p.x_pitch || row >= p.batch) {
    return;
  }
  let at = row * p.x_pitch + column;
  let size = p.height * p.width;
  let channel = column / size;
  var sum = 0.0;
  if (channel < p.inputs) {
    let i = column % size / p.width;
    let j = column % p.width;
    for (var c = 0u; c < p.outputs; c++) {
      for (var a = 0u; a < 3u; a++) {
        for (var b = 0u; b < 3u; b++) {
          let i2 = i + 1u - a;
          let j2 = j + 1u - b;
          if (i2 < p.height && j2 < p.width) {
            let out = row * p.y_pitch + (c * p.height + i2) * p.width + j2;
            if (!RELU || y[out] > 0.0) {
              sum += weight[c * p.weight_pitch + channel * 9u + a * 3u + b] * dy[out];
            }
          }
        }
      }
    }
    if (p.accumulate == 1u) {
      sum += dx[at];
    }
  }
  dx[at] = sum;
}
