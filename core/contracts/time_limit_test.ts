import { assertEquals, assertThrows } from "@std/assert";
import { DeadlineError } from "./errors.ts";
import { withinTime } from "./time_limit.ts";
import { assertQuick } from "../../tests/support/quick.ts";

Deno.test("withinTime() hands results and errors on", () => {
  assertEquals(withinTime("add", 1000, () => 1 + 1), 2);
  assertEquals(withinTime("outer", 1000, () => withinTime("inner", 1000, () => "both")), "both");
  assertThrows(
    () =>
      withinTime("fail", 1000, () => {
        throw new RangeError("mine");
      }),
    RangeError,
    "mine",
  );
});

Deno.test("withinTime() ends loops and patterns at the limit, and goes on after them", () => {
  const patient = /(a+)+$/;
  const endless: [string, () => unknown][] = [
    ["loop", () => {
      for (;;); // nothing but the limit ends it
    }],
    ["match", () => patient.test(`${"a".repeat(64)}!`)],
    ["loop within", () => withinTime("loop", 60_000, () => patient.test(`${"a".repeat(64)}!`))],
  ];
  for (const [action, run] of endless) {
    const started = performance.now();
    assertThrows(
      () => withinTime(action, 50, run),
      DeadlineError,
      `Cannot ${action} as it must take at most 50 ms`,
    );
    assertQuick(performance.now() - started, 2000);
    assertEquals(withinTime("go on", 1000, () => 3), 3);
  }
});
