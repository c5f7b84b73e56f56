// Parameters of 3x3 convolutions and of their gradients.

override RELU: bool = false;

struct Parameters {
  batch: u32,
  inputs: u32,
  outputs: u32,
  height: u32,
  width: u32,
  x_pitch: u32,
  weight_pitch: u32,
  y_pitch: u32,
  accumulate: u32, // of the gradient of the input alone
}
