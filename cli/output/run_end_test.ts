import { assert, assertEquals, assertMatch } from "@std/assert";
import { endText, roseText, type RunEnd } from "./run_end.ts";

const END: RunEnd = {
  ...{
    ending: "done",
    why: "",
    done: "40 steps",
    saved: ["the adapter in runs/a"],
    state: null,
    command: "",
  },
  losses: { kind: "validation loss", before: 4, after: 1.5 },
  best: { step: 40, loss: 1.5 },
  next: "edgetuner generate --adapter runs/a",
};

Deno.test("endText() says how it went: before, after, best and when, what was saved, and what to try next", () => {
  assertEquals(endText(END), [
    "Done: 40 steps, validation loss 4.000 before and 1.500 after",
    "Best: validation loss 1.500 after 40 steps",
    "Saved: the adapter in runs/a",
    "Next: edgetuner generate --adapter runs/a",
  ]);
  assert(!endText({ ...END, ending: "interrupted", why: "Ctrl-C" }).some((line) => line.startsWith("Next")));
});

Deno.test("a loss that rose is said in plain words with what to turn", () => {
  const losses = { kind: "validation loss", before: 4, after: 4.2 } as const;
  assertMatch(roseText({ ...END, losses })!, /validation loss rose.*--rate.*--warmup.*--clip-norm/);
  assertMatch(roseText({ ...END, losses, turns: "a smaller --rate at the edge server" })!, /edge server/);
  // One batch is not like another.
  const training = (after: number) =>
    roseText({ ...END, losses: { kind: "training loss", before: 4, after } });
  assertEquals(training(4.1), null);
  assertMatch(training(4.5)!, /training loss rose/);
  assertMatch(
    roseText({ ...END, best: { step: 20, loss: 1.2 } })!,
    /since its best, after 20 steps.*--keep-best/,
  );
  assertEquals(roseText(END), null);
  assertEquals(roseText({ ...END, losses: null }), null);
});
