import { assert, assertEquals, assertThrows } from "@std/assert";
import { DatabaseSync } from "node:sqlite";
import { fileURLToPath } from "node:url";
import type { StepRecord } from "@edgetuner/core";
import type { RecordJson } from "../control/types.ts";
import { ADMIN, appOf, assertProblem, MadeUpRun, RECORD } from "../../tests/support/made_up_run.ts";
import { until } from "../../tests/support/until.ts";
import { RunStoreError } from "./_store_file.ts";
import { RunStore } from "./run_store.ts";

const headers = { authorization: `Bearer ${ADMIN}` };

function step(step: number, more: Partial<StepRecord> = {}): StepRecord {
  return { ...RECORD, step, loss: 4 - step / 100, ...more };
}

async function folder<T>(task: (path: string) => Promise<T> | T): Promise<T> {
  const path = await Deno.makeTempDir();
  try {
    return await task(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

Deno.test("a store gives back what a run did: records, figures, masks, events, as CSV and as JSON", async () => {
  let now = 1000;
  using store = RunStore.open(":memory:", { now: () => now });
  const made = new MadeUpRun();
  store.record(made, "imp-top");
  for (let i = 0; i < 100; i++) {
    now += 500;
    if (i % 50 === 0) {
      made.emit({ type: "step", record: step(i, { mode: "evaluate", loss: 3, counted: 10 }) });
      made.emit({ type: "step", record: step(i, { mode: "evaluate", loss: 6, counted: 20 }) });
    }
    made.emit({ type: "step", record: step(i, { owners: ['=a "b"'] }) });
  }
  made.stop();
  const [run] = store.runs();
  assertEquals(
    [run!.run, run!.status, run!.reason, run!.steps, run!.records, run!.pruner],
    ["made up", "ended", "stopped", 100, 104, "imp-top"],
  );
  assertEquals([run!.seconds, run!.bytes, run!.loss, run!.bestValidation], [50, 10_400, 3.01, 5]);
  const series = store.series("made up", 10)!;
  assert(series.step.length <= 11);
  assertEquals([series.step.at(-1), series.seconds.at(-1), series.sumBytes.at(-1)], [99, 50, 10_400]);
  assertEquals(series.validation, {
    step: [0, 50],
    seconds: [0.5, 25.5],
    sumBytes: [200, 5400],
    loss: [5, 5],
  });
  // Means over parts hold all steps.
  const whole = store.series("made up", 1000)!;
  assertEquals(whole.loss, Array.from({ length: 100 }, (_, i) => 4 - i / 100));
  const heads = store.heads("made up", 5)!;
  assertEquals([heads.layers, heads.heads, heads.steps.at(-1)], [1, 2, 99]);
  assertEquals([heads.pruned.at(-1), heads.scores.at(-1)], ["01", [0.5, 0.25]]);
  const records = store.records("made up", { from: 102, most: 10 })!;
  assertEquals(records.map(({ record }) => record.step), [98, 99]);
  assertEquals(records[1]!.record, {
    ...step(99, { owners: ['=a "b"'] }),
    ...{ mask: [0, 1], scores: [0.5, 0.25] },
  });
  const app = appOf(made, { store });
  const csv = await (await app.request("/api/runs/made%20up/records.csv", { headers })).text();
  const lines = csv.trimEnd().split("\r\n");
  assertEquals(lines.length, 105);
  assert(lines[0]!.startsWith("step,mode,time,run_seconds,loss,"), lines[0]);
  const sides = ["heads", "data"].flatMap((side) =>
    ["compute", "answer", "wait"].map((part) => `${part}_seconds_phone_${side}`)
  );
  assert(lines[0]!.endsWith(`,pruned,${sides.join(",")},bytes_mask_sent`), lines[0]);
  assert(lines[1]!.includes(",z01,0.002,0.003,0.002,,0.001,0.004,"), lines[1]);
  // No cell is a formula.
  assert(lines[3]!.includes(`,"'=a ""b""",`), lines[3]);
  const answer = await app.request("/api/runs/made%20up/records.json", { headers });
  assertEquals(answer.headers.get("content-disposition"), 'attachment; filename="made_up.json"');
  const json = await answer.json() as { records: RecordJson[]; events: unknown[] };
  assertEquals([json.records.length, json.events.length], [104, 1]);
  await assertProblem(await app.request("/api/runs/other/records.csv", { headers }), 404);
  const badQuery = "/api/runs/made%20up/series?points=1e3";
  await assertProblem(await app.request(badQuery, { headers }), 400);
});

Deno.test("a run that goes on has its later steps once, and its time and bytes go on", async () => {
  await folder((path) => {
    let now = 0;
    const life = (first: number, last: number) => {
      using store = RunStore.open(`${path}/runs.sqlite`, { now: () => now });
      const made = new MadeUpRun();
      store.record(made);
      for (let i = first; i <= last; i++) {
        now += 1000;
        made.emit({ type: "step", record: step(i) });
      }
      return store.records("made up", { from: 0, most: 100 })!;
    };
    life(0, 5);
    now += 3_600_000;
    const all = life(4, 7);
    assertEquals(all.map(({ record }) => record.step), [0, 1, 2, 3, 4, 5, 6, 7]);
    // The steps that were done twice took their time and bytes twice; the hour between took none.
    assertEquals([all.at(-1)!.seconds, all.at(-1)!.sumBytes], [10, 1000]);
  });
});

Deno.test("what was written is there after kill -9, and the run counts as lost then", async () => {
  await folder(async (path) => {
    const program = `
      import { RunStore } from ${JSON.stringify(import.meta.resolve("./run_store.ts"))};
      import { MadeUpRun, RECORD } from ${
      JSON.stringify(import.meta.resolve("../../tests/support/made_up_run.ts"))
    };
      const made = new MadeUpRun();
      const store = RunStore.open(Deno.args[0]);
      store.record(made);
      for (let step = 0;; step++) {
        made.emit({ type: "step", record: { ...RECORD, step } });
        if (step === 200) console.log("on its way");
        await new Promise((resolve) => setTimeout(resolve, 1));
      }`;
    await Deno.writeTextFile(`${path}/program.ts`, program);
    const config = fileURLToPath(new URL("../../deno.json", import.meta.url));
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "-c", config, `${path}/program.ts`, `${path}/runs.sqlite`],
      ...{ stdin: "null", stdout: "piped", stderr: "inherit" },
    }).spawn();
    const said = child.stdout.getReader();
    await said.read();
    child.kill("SIGKILL");
    await child.status;
    await said.cancel();
    using store = RunStore.open(`${path}/runs.sqlite`, { now: () => Date.now() + 60_000 });
    const [run] = store.runs();
    assertEquals(run!.status, "lost");
    const records = store.records("made up", { from: 0, most: 500 })!;
    assert(records.length >= 128, `${records.length}`);
    records.forEach(({ record }, i) => assertEquals(record.step, i));
  });
});

Deno.test("a full store says so once, and the run goes on", async () => {
  await folder(async (path) => {
    const faults: string[] = [];
    using store = RunStore.open(`${path}/runs.sqlite`, {
      maxBytes: 200_000,
      onFault: (sentence) => faults.push(sentence),
    });
    const made = new MadeUpRun();
    store.record(made);
    const mask = new Uint8Array(10_000);
    for (let i = 0; i < 200; i++) made.emit({ type: "step", record: step(i, { mask }) });
    await until(() => faults.length > 0, "the store says that it is full");
    for (let i = 200; i < 400; i++) made.emit({ type: "step", record: step(i, { mask }) });
    store.flush();
    assertEquals(faults.length, 1);
    assert(faults[0]!.includes("takes no more records, and the run goes on without"), faults[0]);
    assert((await Deno.stat(`${path}/runs.sqlite`)).size <= 200_000);
    // What is there can be read.
    assertEquals(store.runs().length, 1);
  });
});

Deno.test("another process may hold the file for a while: nothing is lost", async () => {
  await folder((path) => {
    const faults: string[] = [];
    using store = RunStore.open(`${path}/runs.sqlite`, { onFault: (sentence) => faults.push(sentence) });
    const made = new MadeUpRun();
    store.record(made);
    using other = new DatabaseSync(`${path}/runs.sqlite`);
    other.exec("BEGIN IMMEDIATE");
    for (let i = 0; i < 10; i++) made.emit({ type: "step", record: step(i) });
    store.flush();
    other.exec("COMMIT");
    assertEquals(store.records("made up", { from: 0, most: 100 })!.length, 10);
    assertEquals(faults, []);
  });
});

Deno.test("a file that is broken, of another kind or newer is refused", async () => {
  await folder(async (path) => {
    const refuse = (file: string, text: string) =>
      assertThrows(() => RunStore.open(`${path}/${file}`), RunStoreError, text);
    await Deno.writeTextFile(
      `${path}/text`,
      "no database, but a text that is long enough for a header\n".repeat(9),
    );
    refuse("text", "must be a sound SQLite file");
    new DatabaseSync(`${path}/other`).exec("CREATE TABLE t (x); PRAGMA user_version = 1");
    refuse("other", "it has other tables");
    RunStore.open(`${path}/newer`)[Symbol.dispose]();
    new DatabaseSync(`${path}/newer`).exec("PRAGMA user_version = 7");
    refuse("newer", "at most 1: current version is 7");
    {
      using store = RunStore.open(`${path}/torn`);
      const made = new MadeUpRun();
      store.record(made);
      for (let i = 0; i < 500; i++) made.emit({ type: "step", record: step(i) });
    }
    const bytes = await Deno.readFile(`${path}/torn`);
    await Deno.writeFile(`${path}/torn`, bytes.fill(0xa5, 4096 * 3, 4096 * 9));
    refuse("torn", "run store");
    refuse("no/such/folder", "must be a sound SQLite file");
  });
});

Deno.test("a record takes little of the disk, and a batch little of the thread that serves sockets", async () => {
  await folder((path) => {
    using store = RunStore.open(`${path}/runs.sqlite`);
    const made = new MadeUpRun();
    store.record(made);
    const mask = new Uint8Array(144);
    const scores = Float32Array.from({ length: 144 }, (_, i) => 1 / (i + 3));
    const kept = Array.from({ length: 12 }, () => 12);
    const times: number[] = [];
    for (let i = 0; i < 640; i++) {
      made.emit({ type: "step", record: step(i, { mask, scores, kept }) });
      if (i % 64 !== 63) continue;
      const from = performance.now();
      store.flush();
      times.push(performance.now() - from);
    }
    // The median is 2 ms on a quiet machine; the limit is for machines that do much else.
    const median = times.sort((a, b) => a - b)[5]!;
    assert(median < 250, `${median} ms`);
    store[Symbol.dispose]();
    const size = Deno.statSync(`${path}/runs.sqlite`).size / 640;
    assert(size < 2000, `${size} bytes`);
  });
});
