import { assertEquals } from "@std/assert";
import { MemoryLog, writeReport } from "./report.ts";
import { Rows, Series } from "./rows.ts";

Deno.test("a report holds all rows, which lay in a file until then", async () => {
  const folder = await Deno.makeTempDir();
  const report = `${folder}/report.json`;
  const expected = Array.from(
    { length: 1000 },
    (_, i) => ({ step: i, text: `ü "${i}"\n`, mask: [i % 2, 1] }),
  );
  {
    using rows = Rows.of(report, "steps");
    using none = Rows.of(report, "losses");
    for (const row of expected) rows.add(row);
    assertEquals(rows.count, 1000);
    assertEquals(await Array.fromAsync(rows.lines(), (line) => JSON.parse(line)), expected);
    await writeReport(report, { before: 1, steps: rows, losses: none, left: undefined, after: [2] });
    rows.add({ step: 1000 }); // goes on
    assertEquals((await Array.fromAsync(rows.lines())).length, 1001);
  }
  assertEquals(JSON.parse(await Deno.readTextFile(report)), {
    before: 1,
    steps: expected,
    losses: [],
    after: [2],
  });
  assertEquals(await Array.fromAsync(Deno.readDir(folder), ({ name }) => name), ["report.json"]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("without a report rows are counted only", async () => {
  using rows = Rows.of("", "steps");
  rows.add({});
  assertEquals([rows.count, await Array.fromAsync(rows.lines())], [1, []]);
});

Deno.test("Series keeps numbers, MemoryLog a bounded number of samples over the whole run", () => {
  const series = new Series();
  for (let i = 0; i < 1000; i++) series.push(i / 3);
  assertEquals([...series.values], Array.from({ length: 1000 }, (_, i) => i / 3));
  const log = new MemoryLog();
  for (let step = 0; step < 100_000; step++) log.sample(step);
  const steps = log.samples.map(({ step }) => step);
  assertEquals(steps.length <= 512, true);
  assertEquals([steps[0], steps.at(-1)! > 99_000], [0, true]);
  const gaps = new Set(steps.slice(1).map((step, i) => step - steps[i]!));
  assertEquals(gaps.size, 1);
});
