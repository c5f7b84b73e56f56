// Four packed weights at a time. Needs packed.wgsl; the kernel has the buffer `words`, an array of u32.

// Codes of columns 4 c4 .. 4 c4 + 3 of the row whose words begin at `at`.
fn codes(at: u32, c4: u32) -> vec4f {
  if (FORMAT == F16) {
    return halves(words[at + c4 * 2u], words[at + c4 * 2u + 1u]);
  }
  if (FORMAT == INT8) {
    return bytes(words[at + c4]);
  }
  return nibbles(words[at + c4 / 2u] >> (c4 % 2u * 16u));
}
