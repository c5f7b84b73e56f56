import { assertAlmostEquals, assertEquals } from "@std/assert";
import type { RunResult } from "../compared_systems.ts";
import { estimate, lossWithin, spent, spentAt, stepsTo } from "./protocols.ts";

/** Four steps of 10 bytes and 1 second, the last of 30 bytes and 4 seconds. */
const RUN = {
  steps: [10, 10, 10, 30].map((bytes, i) => ({ bytes, times: { total: i === 3 ? 4000 : 1000 } })),
  curve: [{ step: 0, loss: 4 }, { step: 2, loss: 2 }, { step: 4, loss: 1 }],
} as unknown as RunResult;

Deno.test("what is spent is summed step for step, and evenly within one", () => {
  assertEquals([0, 1, 2.5, 3.5, 4].map((at) => spentAt(RUN, at, "bytes")), [0, 10, 25, 45, 60]);
  assertEquals(spent(RUN, "seconds"), 7);
});

Deno.test("cost to a target: the first crossing on straight lines between evaluations", () => {
  assertEquals(stepsTo(RUN, 2), 2);
  assertEquals(stepsTo(RUN, 3), 1);
  assertEquals(stepsTo(RUN, 1.5), 3);
  assertEquals(stepsTo(RUN, 5), 0, "it began below");
  assertEquals(stepsTo(RUN, 0.9), null);
});

Deno.test("quality under a budget: the loss where it is spent, of a cheaper run its last", () => {
  assertEquals(lossWithin(RUN, 0, "bytes"), 4);
  assertEquals(lossWithin(RUN, 10, "bytes"), 3);
  assertEquals(lossWithin(RUN, 40, "bytes"), 1.5);
  assertEquals(lossWithin(RUN, 1000, "seconds"), 1);
});

Deno.test("an estimate has the interval of Student's t; without all runs there is none", () => {
  assertEquals(estimate([3]), { mean: 3, interval: null });
  const two = estimate([1, 3])!;
  assertEquals(two.mean, 2);
  assertAlmostEquals(two.interval!, 12.706 * Math.sqrt(2) / Math.sqrt(2), 1e-9);
  assertEquals(estimate([1, null]), null);
  assertEquals(estimate([]), null);
});
