import { GpuError } from "../errors.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { exactSize, Pool, type PoolStats, sizeClass } from "./pool.ts";

class FakeResource {
  destroyed = false;
  destroy(): void {
    this.destroyed = true;
  }
}

function fakePool() {
  const stats: PoolStats = { allocatedBytes: 0, allocatedCount: 0, liveBytes: 0, liveCount: 0 };
  let id = 0;
  return { stats, pool: new Pool<FakeResource>(stats, () => id++) };
}

Deno.test("sizeClass() rounds up by at most a quarter, to multiples of 256", () => {
  let previous = 0;
  for (let bytes = 1; bytes < 100_000; bytes += 7) {
    const size = sizeClass(bytes);
    assert(size >= bytes && size % 256 === 0 && size >= previous, `sizeClass(${bytes}) = ${size}`);
    assert(bytes <= 2048 || size <= bytes * 1.25, `sizeClass(${bytes}) = ${size}`);
    assertEquals(sizeClass(size), size);
    previous = size;
  }
  assertEquals([1, 256, 257, 2048, 2049, 4097].map(sizeClass), [256, 256, 512, 2048, 2560, 5120]);
});

Deno.test("exactSize() rounds up to multiples of 256", () => {
  assertEquals([1, 256, 257, 2049].map(exactSize), [256, 256, 512, 2304]);
});

Deno.test("Pool hands out what was made first, in whatever order it came back, and counts what it holds", () => {
  const { pool, stats } = fakePool();
  const make = () => new FakeResource();
  const a = pool.acquire("x", 256, make);
  const b = pool.acquire("x", 256, make);
  const c = pool.acquire("y", 512, make);
  assertEquals(new Set([a.id, b.id, c.id]).size, 3);
  assertEquals(stats, { allocatedBytes: 1024, allocatedCount: 3, liveBytes: 1024, liveCount: 3 });
  for (const order of [[a, b], [b, a]] as const) {
    for (const pooled of order) pool.release(pooled);
    assertEquals(stats, { allocatedBytes: 1024, allocatedCount: 3, liveBytes: 512, liveCount: 1 });
    assertEquals(pool.acquire("x", 256, make), a);
    assertEquals(pool.acquire("x", 256, make), b);
  }
  assertEquals(stats.allocatedCount, 3);
});

Deno.test("Pool.trim() destroys what is free and nothing else", () => {
  const { pool, stats } = fakePool();
  const make = () => new FakeResource();
  const kept = pool.acquire("x", 256, make);
  const freed = pool.acquire("x", 256, make);
  pool.release(freed);
  const destroyed: number[] = [];
  pool.trim((id) => destroyed.push(id));
  assertEquals(destroyed, [freed.id]);
  assertEquals([kept.resource.destroyed, freed.resource.destroyed], [false, true]);
  assertEquals(stats, { allocatedBytes: 256, allocatedCount: 1, liveBytes: 256, liveCount: 1 });
  assert(pool.acquire("x", 256, make).id !== freed.id);
});

Deno.test("Pool refuses more bytes than it may hold, and still hands out what is free", () => {
  const stats: PoolStats = { allocatedBytes: 0, allocatedCount: 0, liveBytes: 0, liveCount: 0 };
  const pool = new Pool<FakeResource>(stats, () => stats.allocatedCount, 1000);
  const make = () => new FakeResource();
  const first = pool.acquire("x", 800, make);
  assertThrows(
    () => pool.acquire("y", 256, make),
    GpuError,
    "Out of memory: 800 of at most 1000 bytes are in use, and 256 more are needed",
  );
  assertEquals(stats, { allocatedBytes: 800, allocatedCount: 1, liveBytes: 800, liveCount: 1 });
  pool.release(first);
  assertEquals(pool.acquire("x", 800, make), first);
});
