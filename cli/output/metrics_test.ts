import { assertEquals } from "@std/assert";
import { MetricsLog } from "./metrics.ts";

Deno.test("MetricsLog keeps the rows before the step that a run goes on from", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const write = (steps: readonly number[], loss: number, resumed?: boolean) => {
      using log = new MetricsLog(folder, { resumed });
      for (const step of steps) log.write({ step, loss });
    };
    write([0, 1, 2, 3], 1);
    await Deno.writeTextFile(`${folder}/metrics.jsonl`, '{"step":4,"lo', { append: true });
    write([2, 3], 2, true);
    assertEquals(await Deno.readTextFile(`${folder}/metrics.csv`), "step,loss\n0,1\n1,1\n2,2\n3,2\n");
    const lines = (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trimEnd().split("\n");
    assertEquals(lines.map((line) => JSON.parse(line).loss), [1, 1, 2, 2]);
    new MetricsLog(folder, { resumed: true })[Symbol.dispose]();
    assertEquals((await Deno.readTextFile(`${folder}/metrics.jsonl`)).trimEnd().split("\n"), lines);
    write([0], 3);
    assertEquals(await Deno.readTextFile(`${folder}/metrics.csv`), "step,loss\n0,3\n");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

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
