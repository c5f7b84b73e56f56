import { assertEquals, assertMatch } from "@std/assert";
import { defaultRunSettings, type Welcome } from "@edgetuner/core";
import { JoinLog } from "./join_log.ts";

const WELCOME: Welcome = {
  repeats: false,
  trained: null,
  turns: null,
  run: "abcd",
  range: { first: 2, count: 3 },
  model: { layers: 4, heads: 8, hidden: 64 },
  settings: { ...defaultRunSettings(10), prunedFade: 1 },
  statistics: [],
  start: 0,
};

/** What a task prints, line by line; off a terminal, as tests are. */
function printed(task: () => void): string[] {
  const { log, error } = console;
  const write = Deno.stderr.writeSync;
  const lines: string[] = [];
  console.log = console.error = (line: string) => void lines.push(line);
  Deno.stderr.writeSync = (data) => {
    lines.push(new TextDecoder().decode(data).trimEnd());
    return data.length;
  };
  try {
    task();
  } finally {
    console.log = log;
    console.error = error;
    Deno.stderr.writeSync = write;
  }
  return lines;
}

/** A line with commas between its fields. */
function fieldsOf(line: string | undefined): string {
  return (line ?? "").replaceAll("  ", ", ");
}

const MASK = Uint8Array.of(0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1);

Deno.test("JoinLog says which heads are this device's, and of each step loss, MB of that step and kept heads", () => {
  const lines = printed(() => {
    const log = new JoinLog({ events: false, "log-every": 0 });
    log.welcome("phone", WELCOME);
    log.losses.train.push(2.5);
    log.step(0, { mask: MASK, totalBytes: 3e6 });
    log.losses.train.push(2.25);
    log.losses.validations.push({ step: 2, loss: 2.125 });
    log.step(1, { mask: MASK, totalBytes: 5e6 });
    log.pause(true);
    log.end();
  });
  assertEquals(lines[0], "Run abcd: this device has heads 2 to 4 of each of 4 layers");
  if (Deno.stderr.isTerminal()) return;
  assertMatch(
    fieldsOf(lines[1]),
    /^1\/10, loss 2\.500, \d+\.\d\d s\/step, 3\.0 MB\/step, kept 9\/12, .* left$/,
  );
  // Bytes are those of the step, not of all steps.
  assertMatch(
    fieldsOf(lines[2]),
    /^2\/10, loss 2\.250, validation 2\.125, \d+\.\d\d s\/step, 2\.0 MB\/step, kept 9\/12, .* left$/,
  );
  assertEquals(lines[3], "The run is paused; waiting");
});

Deno.test("JoinLog prints JSON lines alone where events are asked for", () => {
  const lines = printed(() => {
    const log = new JoinLog({ events: true, "log-every": 0 });
    log.notice("1 of 2 sequences cut");
    log.welcome("phone", { ...WELCOME, range: null, start: 4 });
    log.step(4, { mask: MASK, totalBytes: 3e6 });
    log.pause(false);
  });
  assertEquals(lines.map((line) => JSON.parse(line)), [
    { type: "notice", text: "1 of 2 sequences cut" },
    { type: "welcome", name: "phone", range: null, start: 4 },
    { type: "pause", paused: false },
  ]);
});
