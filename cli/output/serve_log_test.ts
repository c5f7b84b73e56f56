import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  defaultRunSettings,
  type EdgeServerEvent,
  type JoinedDevice,
  type StepRecord,
} from "@edgetuner/core";
import { type LoggedRun, ServeLog, type ServeLogFlags } from "./serve_log.ts";

const FLAGS: ServeLogFlags = {
  ...{ steps: 10, generate: false, events: false, metrics: "", report: "", "log-every": 0 },
};

/** A run that says what it is told to say. */
class Run implements LoggedRun {
  readonly resumedFrom = null;
  readonly settings = defaultRunSettings(10);
  devices: readonly JoinedDevice[] = [];
  say: (event: EdgeServerEvent) => void = () => {};

  subscribe(listener: (event: EdgeServerEvent) => void): () => void {
    this.say = listener;
    return () => {};
  }

  joins(name: string, id: string): void {
    const device = { ...{ name, id, capacity: 2, data: false, range: null }, connected: true };
    this.devices = [...this.devices, device];
    this.say({ type: "joined", device });
  }

  step(step: number, more: Partial<StepRecord> = {}): void {
    const times = { total: 500, readback: 0, codec: 0, wait: 100, prune: 2 } as StepRecord["times"];
    const record: StepRecord = {
      ...{ step, mode: "train", loss: 2.5, times, bytes: 3e6, mask: Uint8Array.of(0, 1, 0, 0), kept: [1, 2] },
      ...{ scores: null, tokens: 96, batch: 2, ...more },
    };
    this.say({ type: "step", record });
  }
}

/** What a task prints on standard output and on standard error, line by line. */
async function printed(task: () => void | Promise<void>): Promise<Record<"out" | "error", string[]>> {
  const { log } = console;
  const write = Deno.stderr.writeSync;
  const lines: Record<"out" | "error", string[]> = { out: [], error: [] };
  console.log = (line: string) => void lines.out.push(line);
  Deno.stderr.writeSync = (data) => {
    lines.error.push(new TextDecoder().decode(data).trimEnd());
    return data.length;
  };
  try {
    await task();
  } finally {
    console.log = log;
    Deno.stderr.writeSync = write;
  }
  return lines;
}

Deno.test("ServeLog says who joins and is refused, and of each step its loss, validation, MB and kept heads", async () => {
  const run = new Run();
  using log = new ServeLog(run, FLAGS);
  const { out, error } = await printed(() => {
    run.joins("phone", "abcd");
    run.joins("phone", "beef");
    run.say({ type: "refused", peer: "10.0.0.9", reason: "its model is another one" });
    run.step(0);
    // Two batches of one validation: the mean by tokens.
    run.step(1, { mode: "evaluate", loss: 3, counted: 10 });
    run.step(1, { mode: "evaluate", loss: 2, counted: 30 });
    run.step(1, { loss: null });
    run.say({ type: "status", status: "ended", reason: "stopped" });
    log.end();
  });
  assertEquals(out, [
    "phone joined (capacity 2)",
    "phone (id beef) joined (capacity 2)",
    "Refused 10.0.0.9: its model is another one",
  ]);
  assertEquals(log.validations.best, { step: 1, loss: 2.25 });
  assertEquals([log.trained.count, log.records.count, log.stopReason], [2, 4, "stopped"]);
  if (Deno.stderr.isTerminal()) return;
  const fields = error.map((line) => line.replaceAll("  ", ", "));
  assertEquals(fields.length, 2, "validation draws nothing by itself");
  assertMatch(fields[0]!, /^1\/10, loss 2\.500, 0\.50 s\/step, 3\.0 MB\/step, kept 3\/4, .* left$/);
  assertMatch(fields[1]!, /^2\/10, validation 2\.250, 0\.50 s\/step, 3\.0 MB\/step, kept 3\/4, .* left$/);
});

Deno.test("ServeLog prints JSON lines alone where events are asked for, and counts passes of generation", async () => {
  const run = new Run();
  using log = new ServeLog(run, { ...FLAGS, events: true });
  const { out, error } = await printed(() => {
    run.joins("phone", "abcd");
    run.step(0);
    const times = { total: 20, readback: 1, codec: 1, wait: 5 };
    const record = { rows: 2, tokens: 3, length: 9, times, bytes: 100, cacheBytes: 640 };
    run.say({ type: "decoding", record });
    run.say({ type: "decoding", record: { ...record, tokens: 1, cacheBytes: 320 } });
    log.say("for people");
  });
  assertEquals(out.map((line) => JSON.parse(line).type), ["joined", "step", "decoding", "decoding"]);
  assertEquals(error, []);
  const { passes, tokens, bytes, cacheBytes } = log.decoded;
  assertEquals({ passes, tokens, bytes, cacheBytes }, { passes: 2, tokens: 8, bytes: 200, cacheBytes: 640 });
});

Deno.test("ServeLog writes each step to the metrics", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const run = new Run();
    {
      using _log = new ServeLog(run, { ...FLAGS, events: true, metrics: folder });
      await printed(() => run.step(0, { gradientNorm: 1.5 }));
    }
    const [head, row] = (await Deno.readTextFile(`${folder}/metrics.csv`)).trim().split("\n");
    assert(head!.startsWith("step,"));
    const value = (name: string) => row!.split(",")[head!.split(",").indexOf(name)];
    assertEquals(["loss", "bytes", "kept_heads", "gradient_norm", "wait_seconds"].map(value), [
      ...["2.5", "3000000", "3", "1.5", "0.1"],
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("ServeLog tells validations on several people's data, together and for each, and counts each owner's steps", async () => {
  const folder = await Deno.makeTempDir();
  const run = new Run();
  const names = ['the "big" one, at work', "barn"] as const;
  try {
    const { out } = await printed(() => {
      using log = new ServeLog(run, { ...FLAGS, metrics: folder });
      for (const [step, loss] of [[0, 3], [2, 2]] as const) {
        run.step(step, { mode: "evaluate", loss: 9, counted: 10, owners: [names[0]] });
        const owners = names.map((name, i) => ({ name, loss: loss + i, counted: 10 }));
        const without = step === 0 ? [] : [
          { name: "cellar", reason: "refused" as const },
          { name: "home", reason: "away" as const },
        ];
        const all = { step, loss: loss + 0.5, counted: 20, isBest: step === 0, owners, without };
        run.say({ type: "validation", ...all });
        run.step(step, { owners: step === 0 ? [names[1]] : names });
      }
      run.say({
        type: "away",
        device: { ...run.devices[0]!, name: "barn", capacity: 0 },
        step: 3,
        reason: "lost",
      });
      for (const line of log.owners.lines) log.say(line);
      // The edge server says which is the best: it compares only those on the same owners' data.
      assertEquals(log.validations.best, { step: 0, loss: 3.5 });
      assertEquals(log.validations.means, [{ step: 0, loss: 3.5 }, { step: 2, loss: 2.5 }]);
    });
    assertEquals(out, [
      `Validation before step 0: loss 3.500 over all (${names[0]} 3.000, barn 4.000)`,
      `Validation before step 2: loss 2.500 over all but cellar, which does not tell its loss, and home, which is away (${
        names[0]
      } 2.000, barn 3.000)`,
      "barn is away from step 3 on: lost",
      `Data of ${names[0]}: 1 steps, validation loss 3.000 before and 2.000 after`,
      "Data of barn: 2 steps, validation loss 4.000 before and 3.000 after",
    ]);
    const rows = (await Deno.readTextFile(`${folder}/metrics.csv`)).trim().split("\n");
    assert(rows[0]!.endsWith(",owners"));
    assert(rows[1]!.endsWith(',"the ""big"" one, at work"'));
    assert(rows[4]!.endsWith(',"the ""big"" one, at work+barn"'));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
