import { assert, assertEquals, assertMatch } from "@std/assert";
import { barLine, ProgressBar } from "./progress.ts";

const STEP = { done: 37, total: 400, left: "12 min 05 s" };
const TEXT = "loss 3.214  validation 3.401  0.42 s/step  1.2 MB/step  kept 120/144";

Deno.test("barLine() keeps what is done and the time left at any width", () => {
  for (const text of ["", "prompts", TEXT]) {
    for (const columns of [40, 59, 60, 80, 119, 120]) {
      const line = barLine({ ...STEP, text }, columns);
      assert(line.length <= columns, `${columns}: ${line}`);
      assertMatch(line, /37\/400/);
      assertMatch(line, /12 min 05 s left$/);
    }
  }
  assertMatch(barLine({ ...STEP, text: TEXT }, 120), /^█+░+ 37\/400 {2}loss .* kept 120\/144 {2}12 min/);
  const forms = [TEXT, "loss 3.214  1.2 MB  kept 120/144", "loss 3.214"];
  assertMatch(barLine({ ...STEP, text: forms }, 120), /^█+░+ 37\/400 {2}loss .* kept 120\/144 {2}12 min/);
  for (const columns of [59, 60, 80]) {
    assertMatch(
      barLine({ ...STEP, text: forms }, columns),
      /37\/400 {2}loss 3.214 {2}1.2 MB {2}kept 120\/144 {2}12 min/,
    );
  }
  assertMatch(barLine({ ...STEP, text: forms }, 40), /^37\/400 {2}loss 3.214 {2}12 min/);
  assertMatch(barLine({ ...STEP, text: TEXT }, 59), /^37\/400 {2}loss 3.214 {2}validation 3.401 {2}12 min/);
});

Deno.test("off a terminal a progress is a plain line every so many seconds", () => {
  let now = 0;
  const lines: string[] = [];
  const options = { columns: null, write: (text: string) => void lines.push(text), now: () => now };
  const bar = new ProgressBar(100, { ...options, everySeconds: 10 });
  for (let step = 1; step <= 30; step++) {
    now += 1000;
    bar.draw(step, `loss ${step}`);
  }
  bar.end();
  assertEquals(lines, [
    "10/100  loss 10  1 min 30 s left\n",
    "20/100  loss 20  1 min 20 s left\n",
    "30/100  loss 30  1 min 10 s left\n",
  ]);
  new ProgressBar(100, { ...options, isShown: false, everySeconds: 0 }).draw(1, "");
  assertEquals(lines.length, 3);
});

Deno.test("a run that goes on tells the time left by its own steps", () => {
  let now = 0;
  const lines: string[] = [];
  const options = { columns: 80, write: (text: string) => void lines.push(text), now: () => now };
  const bar = new ProgressBar(100, options);
  for (let step = 51; step <= 60; step++) {
    now += 1000;
    bar.draw(step, "");
  }
  assertMatch(lines.at(-1)!, / 60\/100 {2}40 s left$/);
});
