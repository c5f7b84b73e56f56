// GELU by the tanh approximation, and its derivative.

fn gelu(x: vec4f) -> vec4f {
  // 0.5 x (1 + tanh(u / 2)) = x / (1 + exp(-u))
  let u = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  return x / (1.0 + exp(-u));
}

fn gelu_grad(x: vec4f) -> vec4f {
  let u = 1.5957691216057308 * (x + 0.044715 * x * x * x);
  let s = 1.0 / (1.0 + exp(-u));
  return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x);
}
