import { assertEquals } from "@std/assert";
import { withEpochs } from "./training_data.ts";

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
