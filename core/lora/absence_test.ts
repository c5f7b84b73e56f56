import { assertEquals, assertThrows } from "@std/assert";
import { absenceLines, joinAbsences, missedSteps, readAbsences } from "./absence.ts";

Deno.test("heads that missed steps are told by how many", () => {
  assertEquals(missedSteps([0, 3, 3, 0, 7].entries()), [{ heads: [1, 2], steps: 3 }, {
    heads: [4],
    steps: 7,
  }]);
  assertEquals(missedSteps([0, 0].entries()), []);
});

Deno.test("parts say together what each says, in words too", () => {
  const joined = joinAbsences([
    { away: [5, 4], missed: [{ heads: [1, 3], steps: 1 }] },
    {},
    { away: [4], missed: [{ heads: [0, 1], steps: 1 }] },
  ]);
  assertEquals(joined, { away: [4, 5], missed: [{ heads: [0, 1, 3], steps: 1 }] });
  assertEquals(absenceLines(joined), [
    "It was saved while heads 4 to 5 were away.",
    "Heads 0 to 1, 3 missed 1 training step: their device was away.",
  ]);
  assertEquals([joinAbsences([{}, {}]), absenceLines({})], [{}, []]);
});

Deno.test("what a file cannot say is refused", () => {
  assertEquals(readAbsences({ away: [1], missed: [{ heads: [0], steps: 2 }] }, 2), {
    away: [1],
    missed: [{ heads: [0], steps: 2 }],
  });
  assertEquals(readAbsences({}, 2), {});
  for (
    const bad of [
      { away: [2] },
      { away: "1" },
      { away: [-1] },
      { missed: [{ heads: [0], steps: 0 }] },
      { missed: [{ heads: [9], steps: 1 }] },
      { missed: [null] },
    ]
  ) assertThrows(() => readAbsences(bad, 2), RangeError, '"away" and "missed"');
});
