import { loadPairs } from "@edgetuner/core";
import { assertEquals } from "@std/assert";
import { countSlots, parseSlots } from "./slots.ts";

const MEANING =
  "name[Kivo], eatType[pub], food[Greek], priceRange[high], customer rating[3 out of 5], area[harbour], familyFriendly[no], near[Harbour Museum]";
const ENTRY =
  "Kivo: harbour pub, Greek kitchen; beside Harbour Museum; prices high; rated 3 out of 5; adults only.";

Deno.test("parseSlots() gives slots and values in order, and nothing for other texts", () => {
  assertEquals(parseSlots("name[The Old, Old Fox], customer rating[3 out of 5], near[]"), [
    ["name", "The Old, Old Fox"],
    ["customer rating", "3 out of 5"],
    ["near", ""],
  ]);
  assertEquals(parseSlots("What is the capital?"), []);
});

Deno.test("countSlots() counts every reference as right", async () => {
  for (const part of ["train", "valid", "test"]) {
    const pairs = await loadPairs(new URL(`../assets/restaurant/${part}.txt`, import.meta.url));
    const { right, all } = countSlots(pairs.map((p) => p.prompt), pairs.map((p) => p.completion));
    assertEquals(right, all, part);
  }
});

Deno.test("countSlots() sees each slot that is missing, wrong or said twice", () => {
  assertEquals(countSlots([MEANING], [ENTRY]), { right: 8, all: 8 });
  const changes: [what: string, from: string, to: string][] = [
    ["another name", "Kivo:", "Tindra:"],
    ["another kind", "pub", "restaurant"],
    ["a part of a word", "pub", "pubs"],
    ["another kitchen", "Greek", "Italian"],
    ["another price", "prices high", "prices moderate"],
    ["a price that is missing", "; prices high", ""],
    ["a price for marks", "rated 3 out of 5", "marks high"],
    ["two ratings", "rated 3 out of 5", "rated 3 out of 5; marks low"],
    ["no area, but a landmark of that name", "harbour ", ""],
    ["children", "adults only", "children welcome"],
    ["another landmark", "Harbour Museum", "Mill Hall"],
  ];
  for (const [what, from, to] of changes) {
    const text = ENTRY.replace(from, to);
    assertEquals(countSlots([MEANING], [text]), { right: 7, all: 8 }, what);
  }
});

Deno.test("countSlots() adds texts up; unknown slots and values are right if they occur", () => {
  assertEquals(countSlots([MEANING, "name[Kivo], area[harbour]"], [ENTRY, ""]), { right: 8, all: 10 });
  const other = "name[The Vaults], colour[blue (dark)], food[Thai]";
  assertEquals(countSlots([other], ["The Vaults is blue (dark)."]), { right: 2, all: 3 });
});
