import { assertEquals } from "@std/assert";
import { MetricsLog } from "./metrics.ts";

Deno.test("MetricsLog writes each row at once, as CSV and as JSON lines", async () => {
  const folder = await Deno.makeTempDir();
  try {
    using log = new MetricsLog(`${folder}/run`);
    log.write({ step: 0, mode: "train", loss: 2.5 });
    log.write({ step: 1, mode: "train", loss: null });
    assertEquals(
      await Deno.readTextFile(`${folder}/run/metrics.csv`),
      "step,mode,loss\n0,train,2.5\n1,train,\n",
    );
    const lines = (await Deno.readTextFile(`${folder}/run/metrics.jsonl`)).trimEnd().split("\n");
    assertEquals(lines.map((line) => JSON.parse(line)), [
      { step: 0, mode: "train", loss: 2.5 },
      { step: 1, mode: "train", loss: null },
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
