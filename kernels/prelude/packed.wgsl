// Packed weights, as packed/formats.ts packs them. Neighbouring codes of a row share a word.

override FORMAT: u32 = 0; // 0 f16, 1 int8, 2 int4
override GROUP: u32 = 1; // weights that share a scale
override ALONG_ROWS: bool = false; // they lie below each other, not side by side

const F16 = 0u;
const INT8 = 1u;
const INT4 = 2u;

// Four codes of 16 bits.
fn halves(w0: u32, w1: u32) -> vec4f {
  return vec4f(unpack2x16float(w0), unpack2x16float(w1));
}

// The four codes of 8 bits in a word.
fn bytes(w: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(w << 24u, w << 16u, w << 8u, w)) >> vec4u(24u));
}

// The four codes of 4 bits in the low half of a word.
fn nibbles(w: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(w << 28u, w << 24u, w << 20u, w << 16u)) >> vec4u(28u));
}
