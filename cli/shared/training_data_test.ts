import { assertEquals } from "@std/assert";
import { beginOf, withEpochs } from "./training_data.ts";

Deno.test("withEpochs() makes steps of passes over the data", async () => {
  const data = await Deno.makeTempFile({ suffix: ".txt" });
  try {
    await Deno.writeTextFile(data, Array.from({ length: 21 }, (_, i) => `name[${i}]||Text ${i}.\n`).join(""));
    const flags = { ...{ model: "", data, "skip-bad": false, steps: 400, batch: 2 }, accumulate: 2 };
    assertEquals((await withEpochs({ ...flags, epochs: 0 })).steps, 400);
    assertEquals((await withEpochs({ ...flags, epochs: 1 })).steps, 6);
    assertEquals((await withEpochs({ ...flags, epochs: 2.5 })).steps, 14);
    assertEquals((await withEpochs({ ...flags, epochs: 0.01 })).steps, 1);
  } finally {
    await Deno.remove(data);
  }
});

Deno.test("beginOf() keeps the clock of a run's start, wherever the run goes on", () => {
  const { begun, now } = beginOf("2024-07-06T15:04:09");
  assertEquals([begun, now.getDate(), now.getHours(), now.getSeconds()], ["2024-07-06T15:04:09", 6, 15, 9]);
  for (const saved of [undefined, "no date"]) {
    const fresh = beginOf(saved);
    assertEquals(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/.test(fresh.begun), true, fresh.begun);
    assertEquals(Math.abs(fresh.now.getTime() - Date.now()) < 60_000, true);
    assertEquals(beginOf(fresh.begun).now, fresh.now);
  }
});
