import { assertEquals, assertThrows } from "@std/assert";
import { targetColumns } from "./target_columns.ts";

const _ = 0xffff_ffff;

Deno.test("targetColumns(): as many heads of keys and values as of queries", () => {
  const shape = { heads: 4, headSize: 12, columns: 144 };
  for (const [target, first] of [["q", 0], ["k", 48], ["v", 96]] as const) {
    assertEquals(targetColumns(target, [1, 3], shape), { first, heads: [1, 3], passes: [[1, 3]] });
  }
});

Deno.test("targetColumns(): a group's heads share columns, but not in one pass", () => {
  const shape = { heads: 6, headSize: 8, columns: 48 + 2 * 16 }; // 6 query heads, 2 of keys and values
  assertEquals(targetColumns("q", [0, 1, 5], shape), { first: 0, heads: [0, 1, 5], passes: [[0, 1, 5]] });
  assertEquals(targetColumns("k", [0, 1, 2, 3, 4, 5], shape), {
    first: 48,
    heads: [0, 0, 0, 1, 1, 1],
    passes: [[0, _, _, 1, _, _], [_, 0, _, _, 1, _], [_, _, 0, _, _, 1]],
  });
  assertEquals(targetColumns("v", [1, 3, 4], shape), {
    first: 64,
    heads: [0, 1, 1],
    passes: [[_, 1, _], [0, _, 1]],
  });
});

Deno.test("targetColumns() throws on columns that no number of heads gives", () => {
  assertThrows(
    () => targetColumns("k", [0], { heads: 4, headSize: 12, columns: 48 + 2 * 36 }),
    TypeError,
    "must divide",
  );
});
