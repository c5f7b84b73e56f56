import { assert, assertEquals, assertLess, assertRejects } from "@std/assert";
import { BackgroundSaver, SaveSchedule } from "./saving.ts";

Deno.test("by time the first step is saved, then intervals are kept and grow with what saving costs", () => {
  let now = 0;
  const run = (steps: number, cost: number, schedule: SaveSchedule, noise = 0) => {
    const saved: number[] = [];
    let spent = 0;
    for (let step = 1; step <= steps; step++) {
      const isDue = schedule.isDue(step);
      // What a busy machine adds to steps, in an order that looks like none.
      const ms = 200 + noise * (step * 7919 % 101 / 101) + (isDue ? cost : 0);
      if (isDue) saved.push(step), spent += cost;
      now += ms;
      schedule.took(ms, { isSaved: isDue });
    }
    return { saved, spent };
  };
  const cheap = run(100, 10, new SaveSchedule({ ms: 3000 }, () => now));
  assertEquals(cheap.saved.slice(0, 4), [1, 16, 31, 46]);
  const noisy = run(2000, 10, new SaveSchedule({ ms: 3000 }, () => now), 200);
  assert(noisy.saved.length > 2000 * 0.3 / 4, `${noisy.saved.length} saves, every 3 to 4 seconds`);
  const started = now;
  const dear = run(5000, 300, new SaveSchedule({ ms: 3000 }, () => now));
  assert(dear.spent / (now - started) < 0.012, `${dear.spent / (now - started)}`);
  assert(dear.saved.length > 25, `${dear.saved.length}`);
});

Deno.test("by steps nothing else counts, and without either nothing is saved", () => {
  const bySteps = new SaveSchedule({ steps: 3, ms: 1 });
  assertEquals([1, 2, 3, 4, 5, 6].filter((step) => bySteps.isDue(step)), [3, 6]);
  const never = new SaveSchedule({});
  assertEquals([never.saves, never.isDue(1)], [false, false]);
});

Deno.test("a state is written beside what follows, one at a time, and an error comes with the next call", async () => {
  const saver = new BackgroundSaver();
  const written: number[] = [];
  const first = Promise.withResolvers<void>();
  await saver.save(() => 1, async (state) => {
    await first.promise;
    written.push(state);
  });
  assertEquals(written, []);
  const second = saver.save(() => 2, (state) => void written.push(state));
  first.resolve();
  await second;
  await saver.settled();
  assertEquals([written, saver.times.count], [[1, 2], 2]);
  await saver.save(() => 3, () => Promise.reject(new Error("the disk is full")));
  await assertRejects(() => saver.settled(), Error, "the disk is full");
});

Deno.test("where steps differ much, the time that a machine is known to stand still makes saves rare", () => {
  let now = 0;
  const schedule = new SaveSchedule({ ms: 3000 }, () => now);
  let saves = 0;
  for (let step = 1; step <= 400; step++) {
    const isSaved = schedule.isDue(step);
    const waitedMs = isSaved ? 350 : 0;
    // From 200 to 1800 ms: a save of 350 ms is nothing beside that.
    const ms = (step % 2 === 0 ? 200 : 1800) + waitedMs;
    now += ms;
    if (isSaved) saves++;
    schedule.took(ms, { isSaved, waitedMs });
  }
  assertLess(saves * 350 / now, 0.015);
});
