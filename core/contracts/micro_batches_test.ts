import { assertEquals } from "@std/assert";
import { splitBatch } from "./micro_batches.ts";

Deno.test("splitBatch() splits by sequences, as evenly as possible, larger parts first", () => {
  const sizes = (batch: number, count: number) =>
    splitBatch({ batch, length: 10 }, count).map((p) => p.batch);
  assertEquals(sizes(8, 1), [8]);
  assertEquals(sizes(8, 4), [2, 2, 2, 2]);
  assertEquals(sizes(8, 3), [3, 3, 2]);
  assertEquals(sizes(5, 4), [2, 1, 1, 1]);
  assertEquals(sizes(1, 4), [1]);
  assertEquals(sizes(3, 64), [1, 1, 1]);
  assertEquals(splitBatch({ batch: 5, length: 13 }, 2), [
    { index: 0, batch: 3, rows: 39, firstRow: 0 },
    { index: 1, batch: 2, rows: 26, firstRow: 39 },
  ]);
});
