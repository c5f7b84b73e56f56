import { assertEquals } from "@std/assert";
import { barLine } from "./progress.ts";
import { keptIn, stepText, stepTexts } from "./step_text.ts";

const STEP = {
  loss: 1.23456,
  seconds: 0.5,
  traffic: { bytes: 2_345_678, unit: "/step" },
  kept: 20,
  heads: 32,
} as const;

Deno.test("stepText() has loss, validation, s/step, MB and kept heads, as far as they are known", () => {
  assertEquals(stepText(STEP), "loss 1.235  0.50 s/step  2.3 MB/step  kept 20/32");
  assertEquals(
    stepText({ ...STEP, validation: 1.5, traffic: { bytes: 45_000_000, unit: " held" } }),
    "loss 1.235  validation 1.500  0.50 s/step  45 MB held  kept 20/32",
  );
  assertEquals(stepText({ ...STEP, loss: null, heads: 0 }), "0.50 s/step  2.3 MB/step");
  // A loss of zero is a loss.
  assertEquals(
    stepText({ ...STEP, loss: 0, validation: 0 }).startsWith("loss 0.000  validation 0.000"),
    true,
  );
});

Deno.test("at 60 columns a step keeps its loss, MB, kept heads and time left", () => {
  const line = { ...STEP, validation: 1.5, kept: 120, heads: 144 };
  const at = (columns: number, left: string) =>
    barLine({ done: 37, total: 400, text: stepTexts(line), left }, columns - 1);
  assertEquals(at(60, "12 min 05 s"), "37/400  loss 1.235  2.3 MB  kept 120/144  12 min 05 s left");
  assertEquals(at(72, "12 s"), "37/400  loss 1.235  val 1.500  0.50 s  2.3 MB  kept 120/144  12 s left");
  assertEquals(stepTexts(line)[0], stepText(line));
});

Deno.test("keptIn() counts what is not pruned", () => {
  assertEquals([keptIn(Uint8Array.of(0, 1, 0, 0)), keptIn(new Uint8Array(0))], [3, 0]);
});
