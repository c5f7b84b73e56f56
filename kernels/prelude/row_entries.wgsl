// Entry points of kernels that reduce rows: `rows` takes one row per invocation, for software adapters;
// `workgroups` shares a row among LANES, for GPUs. Needs workgroup_sum.wgsl. The kernel says what is added
// up and what is done with it:
// fn row_count() -> u32
// fn sums_of(row: u32, lane: u32, lanes: u32) -> Summed
// fn write(row: u32, sums: Summed, lane: u32, lanes: u32)

@compute @workgroup_size(8)
fn rows(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= row_count()) {
    return;
  }
  write(id.x, sums_of(id.x, 0u, 1u), 0u, 1u);
}

@compute @workgroup_size(LANES)
fn workgroups(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) lane: u32) {
  write(workgroup.x, workgroup_sum(sums_of(workgroup.x, lane, LANES), lane), lane, LANES);
}
