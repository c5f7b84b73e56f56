import { assert, assertEquals, assertThrows } from "@std/assert";
import { allocateHeads } from "./allocation.ts";

const counts = (heads: number, capacities: readonly number[]) =>
  allocateHeads(heads, capacities).map((r) => r.count);

Deno.test("allocateHeads() divides in proportion to capacity", () => {
  assertEquals(counts(16, [8, 5, 3]), [8, 5, 3]);
  assertEquals(counts(16, [0.8, 0.5, 0.3]), [8, 5, 3]);
  assertEquals(counts(12, [1, 1, 1]), [4, 4, 4]);
  assertEquals(counts(4, [7]), [4]);
  assertEquals(counts(4, [3, 1]), [3, 1]);
});

Deno.test("allocateHeads() gives what is left over to the largest remainders, ties to the first", () => {
  assertEquals(counts(8, [8, 5, 3]), [4, 3, 1]); // 4, 2.5 and 1.5
  assertEquals(counts(10, [1, 1, 1]), [4, 3, 3]);
  assertEquals(counts(11, [1, 1, 1]), [4, 4, 3]);
  assertEquals(counts(5, [1, 2]), [2, 3]); // 1.67 and 3.33
  assertEquals(counts(7, [1, 2, 3, 4]), [1, 1, 2, 3]); // 0.7, 1.4, 2.1 and 2.8
});

Deno.test("allocateHeads() gives every device a head, from the one that has most", () => {
  assertEquals(counts(4, [1000, 1, 1]), [2, 1, 1]);
  assertEquals(counts(4, [1, 1000, 1, 1]), [1, 1, 1, 1]);
  assertEquals(counts(12, [1, 1e9]), [1, 11]);
  assertEquals(counts(3, [5, 5, 5]), [1, 1, 1]);
});

Deno.test("allocateHeads() covers all heads once, in order, for any capacities", () => {
  let state = 1;
  const random = () => (state = Math.imul(state, 48271) >>> 0) / 2 ** 32;
  for (let i = 0; i < 500; i++) {
    const heads = 1 + Math.floor(random() * 24);
    const capacities = Array.from(
      { length: 1 + Math.floor(random() * heads) },
      () => 0.01 + random() ** 4 * 100,
    );
    const ranges = allocateHeads(heads, capacities);
    assertEquals(ranges.length, capacities.length);
    let first = 0;
    for (const range of ranges) {
      assertEquals(range.first, first);
      assert(range.count >= 1);
      first += range.count;
    }
    assertEquals(first, heads);
    // Nobody is further than one head from the quota, but for the heads that everybody gets.
    const total = capacities.reduce((a, b) => a + b, 0);
    const quotas = capacities.map((c) => heads * c / total);
    if (quotas.every((q) => q >= 1)) {
      ranges.forEach(({ count }, m) => assert(Math.abs(count - quotas[m]!) < 1, `${count} of ${quotas[m]}`));
    }
    // No device gets fewer heads than one with less capacity.
    capacities.forEach((a, m) =>
      capacities.forEach((b, n) =>
        assert(a <= b || ranges[m]!.count >= ranges[n]!.count, `${capacities} of ${heads}`)
      )
    );
  }
});

Deno.test("allocateHeads() refuses more devices than heads, none, and capacities that are not positive", () => {
  assertThrows(() => allocateHeads(2, [1, 1, 1]), RangeError, "1 to 2 devices");
  assertThrows(() => allocateHeads(4, []), RangeError, "1 to 4 devices");
  for (const bad of [0, -1, NaN, Infinity]) {
    assertThrows(() => allocateHeads(4, [1, bad]), RangeError, "device 1");
  }
});
