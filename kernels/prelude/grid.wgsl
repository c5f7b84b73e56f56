// Item of an invocation in a grid of as many workgroups as gridOf() of engine/lanes.ts asks for, each of `size` items.
fn grid_index(workgroup: vec3u, lane: u32, size: u32) -> u32 {
  return (workgroup.y * 32768u + workgroup.x) * size + lane;
}
