// Sum over the lanes of a workgroup, for entry points of LANES invocations. The kernel says of what:
// alias Summed = f32;

const LANES = 64u;
var<workgroup> summands: array<Summed, LANES>;

fn workgroup_sum(mine: Summed, lane: u32) -> Summed {
  summands[lane] = mine;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      summands[lane] += summands[lane + half];
    }
    workgroupBarrier();
  }
  let sum = summands[0];
  workgroupBarrier(); // before the next sum is begun
  return sum;
}
