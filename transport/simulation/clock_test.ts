import { assert, assertEquals, assertRejects } from "@std/assert";
import { realClock, until, virtualClock } from "./clock.ts";
import { settled } from "../../tests/support/until.ts";

Deno.test("virtual clock: events come in the order of their times, whatever the order of asking", async () => {
  using clock = virtualClock();
  const seen: string[] = [];
  const times = [50, 3, 700, 3, 12.5, 1e9, 0, 12.5, 8];
  const last = Promise.withResolvers<void>();
  times.forEach((at, i) =>
    clock.schedule(at, () => {
      seen.push(`${at} ${i} ${clock.now()}`);
      if (seen.length === times.length) last.resolve();
    })
  );
  await last.promise;
  const order = times.map((at, i) => ({ at, i })).sort((a, b) => a.at - b.at || a.i - b.i);
  assertEquals(seen, order.map(({ at, i }) => `${at} ${i} ${at}`));
});

Deno.test("virtual clock: of several at the same time the lowest order comes first", async () => {
  using clock = virtualClock();
  const seen: number[] = [];
  for (const order of [2, 0, 1, 0]) clock.schedule(5, () => void seen.push(order), order);
  await until(clock, 6);
  assertEquals(seen, [0, 0, 1, 2]);
});

Deno.test("virtual clock: many events in any order keep theirs", async () => {
  using clock = virtualClock();
  const seen: number[] = [];
  for (let i = 0; i < 500; i++) clock.schedule((i * 7919) % 501, () => void seen.push(clock.now()));
  await until(clock, 1000);
  assertEquals(seen, [...seen].sort((a, b) => a - b));
  assertEquals(seen.length, 500);
});

Deno.test("virtual clock: no event comes while promises are still settling", async () => {
  using clock = virtualClock();
  let settled = 0;
  clock.schedule(1, async () => {
    for (let i = 0; i < 5000; i++) await null;
    settled = clock.now();
  });
  await until(clock, 2);
  assertEquals(settled, 1);
});

Deno.test("virtual clock: time stands still while it is busy or held", async () => {
  let busy = true;
  using clock = virtualClock({ busy: () => busy });
  const hold = clock.hold();
  let reached = false;
  const arriving = until(clock, 1000).then(() => void (reached = true));
  await settled();
  assert(!reached);
  busy = false;
  await settled();
  assert(!reached);
  assertEquals(clock.now(), 0);
  hold[Symbol.dispose]();
  hold[Symbol.dispose](); // a second time counts for nothing
  await arriving;
  assertEquals(clock.now(), 1000);
});

Deno.test("virtual clock: what was taken back does not come and does not move time", async () => {
  using clock = virtualClock();
  const cancel = clock.schedule(10, () => {
    throw new Error("It came all the same");
  });
  cancel();
  await until(clock, 4);
  await settled();
  assertEquals(clock.now(), 4);
});

Deno.test("until() ends by its signal", async () => {
  {
    using stuck = virtualClock({ busy: () => true });
    for (const clock of [stuck, realClock()]) {
      const controller = new AbortController();
      const waiting = assertRejects(
        () => until(clock, clock.now() + 1e6, controller.signal),
        Error,
        "enough",
      );
      setTimeout(() => controller.abort(new Error("enough")), 5);
      await waiting;
    }
  }
  // A clock that is disposed of ends with the turn of the event loop that it is in.
  await settled();
});

Deno.test("real clock: takes its time", async () => {
  const clock = realClock();
  for (const wait of [0.4, 3, 6.9, 15]) {
    const end = clock.now() + wait;
    await until(clock, end);
    assert(clock.now() >= end, `${wait} ms`);
  }
  let late = false;
  clock.schedule(clock.now() + 5, () => void (late = true))();
  await until(clock, clock.now() + 10);
  assert(!late);
});
